package main

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of linux/fs.h and fs/ext4/ext4.h.
const (
	fiFreeze   = 0xc0045877 // FIFREEZE
	fiThaw     = 0xc0045878 // FITHAW
	ext4Resize = 0x40086610 // EXT4_IOC_RESIZE_FS
)

// resizeFS grows a mounted ext4 file system to a number of blocks.
func resizeFS(f *os.File, blocks uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return errno
	}
	return nil
}

func fsIoctl(f *os.File, request uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
