package microvm

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth.dev/internal/engine"
	"berth.dev/internal/engine/microvm/bootapi"
	"berth.dev/internal/engine/microvm/kernel"
)

// Descriptors that QEMU gets, in this order from 3 on.
const (
	fdWire = 3 + iota
	fdControl
	fdStdin
	fdOutput
	fdLayer
	fdShare
)

// ports are the serial ports by their descriptors.
var ports = []struct {
	name string
	fd   int
}{
	{bootapi.PortControl, fdControl}, {bootapi.PortStdin, fdStdin}, {bootapi.PortOutput, fdOutput}, {bootapi.PortLayer, fdLayer},
}

// Bounds of what a machine gets when nothing was asked for.
const (
	defaultMemory = 4 << 30
	leastMemory   = 512 << 20
	// smallestMemory may be asked for.
	smallestMemory = 192 << 20
)

// cpus is how many processors the machine has.
func cpus(asked int, h hardware) int {
	switch {
	case asked > 0:
		return asked
	case h.accel == accelTCG:
		return 1 // more would take turns
	}
	return runtime.NumCPU()
}

// memory is what the machine has, in bytes: half of the host's unless asked
// for. It takes what the guest has touched and gives back what it freed.
func memory(asked int64) int64 {
	if asked > 0 {
		return asked &^ (1<<20 - 1)
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return leastMemory
	}
	return max(leastMemory, min(defaultMemory, int64(info.Totalram)*int64(info.Unit)/2)) &^ (1<<20 - 1)
}

// qemuArgs is QEMU's command line.
func qemuArgs(cfg engine.Config, h hardware, k kernel.Kernel, disk state) []string {
	c := command{h: h}
	c.machineType()
	ram := strconv.FormatInt(memory(cfg.Resources.Memory)>>20, 10) + "M"
	c.add("-cpu", h.cpu(), "-smp", strconv.Itoa(cpus(cfg.Resources.CPUs, h)), "-m", ram,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none",
		// It may start nothing, become nobody and raise no limit.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-kernel", k.Image, "-initrd", k.Initrd, "-append", h.kernelLine())
	c.disk(bootapi.DiskRoot, cfg.Root, true)
	c.disk(bootapi.DiskState, disk.path, false)
	c.disk(bootapi.DiskModules, k.Modules, true)
	for i, l := range cfg.Layers {
		c.disk(bootapi.DiskLayer+strconv.Itoa(i), l.File, true)
	}
	c.add("-netdev", fmt.Sprintf("dgram,id=wire,local.type=fd,local.str=%d", fdWire))
	c.device("virtio-net", fmt.Sprintf("netdev=wire,mac=%s,host_mtu=%d%s", cfg.Network.MAC, cfg.Network.MTU, c.noROM()))
	c.device("virtio-serial", "")
	for i, p := range ports {
		c.add("-chardev", fmt.Sprintf("socket,id=port%d,fd=%d", i, p.fd),
			"-device", fmt.Sprintf("virtserialport,chardev=port%d,name=%s,nr=%d", i, p.name, i+1))
	}
	c.device("virtio-rng", "")
	// Pages that the guest frees go back to the host at once.
	c.device("virtio-balloon", "free-page-reporting=on,deflate-on-oom=on")
	// The file server maps the guest's memory, so that is a file in memory.
	c.add("-object", "memory-backend-memfd,id=ram,share=on,size="+ram, "-M", "memory-backend=ram")
	if len(cfg.Mounts) > 0 {
		c.add("-chardev", fmt.Sprintf("socket,id=share,fd=%d", fdShare))
		c.device("vhost-user-fs", "chardev=share,queue-size=1024,tag="+bootapi.ShareTag)
	}
	return c.args
}

// command collects arguments for one kind of hardware.
type command struct {
	h    hardware
	args []string
}

func (c *command) add(args ...string) { c.args = append(c.args, args...) }

func (c *command) machineType() {
	accel := c.h.accel
	if accel == accelTCG {
		// Not a thread for each processor: Linux patches its own code while all of
		// them run, which QEMU's emulation of it with threads gets wrong now and
		// then (seen with 7.2: a kernel that dies at its start).
		accel += ",thread=single,tb-size=64"
	}
	c.add("-accel", accel)
	if c.h.machine == machineMicroVM {
		// Devices are found through ACPI: the distribution's kernel does not take
		// them from its command line. rtc: without it the kernel polls for seconds.
		m := "microvm,acpi=on,rtc=on,x-option-roms=off,isa-serial=on,pcie=off,usb=off"
		if c.h.accel == accelTCG {
			m += ",pit=off,pic=off"
		}
		c.add("-M", m, "-global", "virtio-mmio.force-legacy=false")
		return
	}
	c.add("-M", "q35,usb=off,vmport=off,smbus=off,sata=off,graphics=off,i8042=off")
}

// device adds a virtio device.
func (c *command) device(name, options string) {
	suffix := "-device"
	if c.h.machine != machineMicroVM {
		suffix = "-pci"
	}
	if options != "" {
		options = "," + options
	}
	c.add("-device", name+suffix+options)
}

// noROM drops the boot ROM that network cards on PCI have.
func (c *command) noROM() string {
	if c.h.machine == machineMicroVM {
		return ""
	}
	return ",romfile="
}

// disk adds a block device. Locks are off: many machines read one image, and
// the state's folder has a lock of its own.
func (c *command) disk(serial, file string, readOnly bool) {
	options := "cache=writeback,aio=threads,file.locking=off"
	if readOnly {
		options += ",readonly=on"
	} else {
		options += ",discard=unmap,detect-zeroes=unmap"
	}
	c.add("-drive", "if=none,format=raw,id="+serial+",file="+escape(file)+","+options)
	c.device("virtio-blk", "drive="+serial+",serial="+serial)
}

// escape protects a value in one of QEMU's lists.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// kernelLine is the kernel's command line.
func (h hardware) kernelLine() string {
	line := "console=ttyS0 rdinit=/init reboot=t panic=-1 random.trust_cpu=on 8250.nr_uarts=1 cryptomgr.notests"
	if os.Getenv(debugEnv) == "" {
		line += " quiet loglevel=3"
	}
	if h.machine == machineMicroVM {
		line += " pci=off"
	}
	if h.accel == accelTCG {
		// What isolates is the emulator; the guest need not guard itself against a
		// processor that it has not.
		line += " no_timer_check nokaslr mitigations=off"
	}
	if h.accel == accelTCG && h.khz > 0 {
		line += fmt.Sprintf(" tsc=reliable tsc_early_khz=%d lpj=%d", h.khz, h.khz*1000/kernelHZ)
	}
	return line
}

// kernelHZ is the ticks a second of Debian's and Ubuntu's kernels.
const kernelHZ = 250
