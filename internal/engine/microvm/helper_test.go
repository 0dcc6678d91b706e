//go:build microvm

package microvm

import (
	"testing"

	"berth.dev/internal/engine/microvm/bootapi"
	"berth.dev/internal/engine/microvm/kernel"
)

func kernelFor(t *testing.T) kernel.Kernel {
	t.Helper()
	return kernel.Kernel{Image: "/vmlinux", Initrd: "/initrd", Modules: "/modules.erofs"}
}

func boot(hostname string) bootapi.Request {
	return bootapi.Request{Op: bootapi.OpBoot, Boot: &bootapi.Boot{Hostname: hostname}}
}
