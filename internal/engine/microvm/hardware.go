package microvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth.dev/internal/atomicfile"
	"berth.dev/internal/sandbox"
)

// Accelerators and machine types, as QEMU calls them.
const (
	accelKVM = "kvm"
	accelTCG = "tcg"

	machineMicroVM = "microvm"
	machineQ35     = "q35"
)

// hardware is what a machine is made to look like on this host.
type hardware struct {
	accel, machine string
	// khz is the rate of the processor's time stamp counter, or 0; only used
	// where the guest cannot find it out.
	khz uint64
	// slow says why there is no KVM, nil when there is.
	slow error
}

// accelerated is the accelerator in words.
func (h hardware) accelerated() string {
	if h.accel == accelKVM {
		return "accelerated by KVM"
	}
	return "emulated (TCG)"
}

// hardware chooses accelerator and machine type. cacheDir keeps what probes
// found until the next boot of the host; "" probes again.
func (e *Engine) hardware(ctx context.Context, t tools, cacheDir string) (hardware, error) {
	p := prober{tools: t, answers: loadAnswers(cacheDir, t)}
	h := hardware{accel: e.accel, machine: e.machine}
	if h.accel == "" {
		h.accel = accelKVM
		if h.slow = p.kvm(ctx); h.slow != nil {
			h.accel = accelTCG
		}
	}
	if h.accel == accelTCG {
		h.khz = tscKHz()
	}
	types := []string{machineMicroVM, machineQ35}
	switch {
	case e.machine != "":
		types = []string{e.machine}
	case h.accel == accelTCG && h.khz == 0:
		// Emulated, the smaller machine has no clock that Linux could measure the
		// time stamp counter by: it waits for one for ever.
		types = types[1:]
	}
	var err error
	for _, h.machine = range types {
		if err = p.try(ctx, h); err == nil {
			break
		}
	}
	p.answers.keep(cacheDir)
	return h, err
}

// kvmDevice is what QEMU opens.
const kvmDevice = "/dev/kvm"

// kvm reports why KVM is of no use here, as a *sandbox.Error with a hint,
// or nil. The device's presence proves nothing: there are hosts on which it
// opens, and a machine then never executes an instruction. So one is tried.
func (p prober) kvm(ctx context.Context) error {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return sandbox.Errorf(sandbox.ErrUnavailable, "this host has no %s: microVMs are emulated, many times slower than hardware", kvmDevice).
			WithHint("switch on virtualisation in the firmware, or nested virtualisation of this virtual machine, and run: sudo modprobe kvm_intel || sudo modprobe kvm_amd; or use the engine gvisor, which needs none")
	case errors.Is(err, os.ErrPermission):
		return sandbox.Errorf(sandbox.ErrUnavailable, "%s may not be opened by this user: microVMs are emulated, many times slower than hardware", kvmDevice).
			WithHint("run: sudo usermod -aG kvm $USER, and log in again")
	case err != nil:
		return sandbox.Errorf(sandbox.ErrUnavailable, "%s cannot be opened (%w): microVMs are emulated, many times slower than hardware", kvmDevice, err)
	}
	f.Close()
	for _, machine := range []string{machineMicroVM, machineQ35} {
		if err = p.try(ctx, hardware{accel: accelKVM, machine: machine}); err == nil {
			return nil
		}
	}
	return sandbox.Errorf(sandbox.ErrUnavailable, "KVM does not work on this host (%w): microVMs are emulated, many times slower than hardware", err).
		WithHint("this is often a virtual machine without nested virtualisation: switch it on, or use the engine gvisor, which needs none")
}

// prober tries hardware, and remembers.
type prober struct {
	tools   tools
	answers *answers
}

// try reports why a machine of this hardware does not run here, or nil.
func (p prober) try(ctx context.Context, h hardware) error {
	name := h.machine + " " + h.accel
	text, known := p.answers.Found[name]
	if !known {
		err := probe(ctx, p.tools, h)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			text = err.Error()
		}
		p.answers.Found[name], p.answers.changed = text, true
	}
	if text != "" {
		return sandbox.Errorf(sandbox.ErrUnavailable, "%s", text)
	}
	return nil
}

const answersFile = "probes.json"

// answers are what probes found: hardware to an error or "". They hold for one
// boot of the host and one QEMU.
type answers struct {
	Key     string            `json:"key"`
	Found   map[string]string `json:"found"`
	changed bool
}

func loadAnswers(dir string, t tools) *answers {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	fresh := &answers{Key: fmt.Sprintf("%s %s %s", bytes.TrimSpace(boot), t.qemu, t.qemuVersion), Found: map[string]string{}}
	if dir == "" {
		return fresh
	}
	var a answers
	data, err := os.ReadFile(filepath.Join(dir, answersFile))
	if err != nil || json.Unmarshal(data, &a) != nil || a.Key != fresh.Key || a.Found == nil {
		return fresh
	}
	return &a
}

// keep writes what was found; what cannot be written is found again.
func (a *answers) keep(dir string) {
	if dir == "" || !a.changed {
		return
	}
	if data, err := json.Marshal(a); err == nil && os.MkdirAll(dir, 0o700) == nil {
		_ = atomicfile.Write(filepath.Join(dir, answersFile), data, 0o600)
	}
}

// probeTime is how long the probe may take; it executes five instructions, and
// QEMU needs a tenth of a second to come to that on a machine that is busy.
const probeTime = 5 * time.Second

// probeExit is what QEMU ends with when the probe ran: isa-debug-exit makes
// 2n+1 of what is written to its port.
const (
	probePort  = 0xf4
	probeValue = 0x10
	probeExit  = probeValue<<1 | 1
)

// probe starts a machine whose firmware does nothing but end it.
func probe(ctx context.Context, t tools, h hardware) error {
	dir, err := os.MkdirTemp("", "berth-probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bios := filepath.Join(dir, "bios")
	if err := os.WriteFile(bios, probeFirmware(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.qemu,
		"-M", h.machine, "-accel", h.accel, "-cpu", h.cpu(), "-m", "32M", "-bios", bios,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "none", "-monitor", "none",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=1", probePort))
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == probeExit {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("a probe machine (%s, %s) executed nothing for %s", h.machine, h.accel, probeTime)
	}
	return fmt.Errorf("a probe machine (%s, %s) did not start: %w %s", h.machine, h.accel, err, firstLine(out))
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// probeFirmware is 64 KiB of firmware with the probe where a processor begins,
// 16 bytes before its end: mov dx, port; mov al, value; out dx, al; hlt; and
// back to the hlt.
func probeFirmware() []byte {
	b := make([]byte, 64<<10)
	copy(b[len(b)-16:], []byte{0xba, probePort, 0x00, 0xb0, probeValue, 0xee, 0xf4, 0xeb, 0xfd})
	return b
}

// cpu is QEMU's name of the processor.
func (h hardware) cpu() string {
	if h.accel == accelKVM {
		return "host"
	}
	return "max"
}

// tscTime is how long the time stamp counter is measured.
const tscTime = 20 * time.Millisecond

// tscKHz measures the rate of this host's time stamp counter, which is what an
// emulated processor's shows; 0 when it is not steady. The best of several
// tries counts, because a busy host interrupts them.
func tscKHz() uint64 {
	var rates []uint64
	for range 3 {
		rates = append(rates, measureTSC(tscTime))
	}
	lowest, highest := rates[0], rates[0]
	for _, r := range rates {
		lowest, highest = min(lowest, r), max(highest, r)
	}
	if lowest == 0 || highest-lowest > lowest/100 {
		return 0
	}
	return (lowest + highest) / 2
}

func measureTSC(d time.Duration) uint64 {
	var a, b unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &a) != nil {
		return 0
	}
	from := rdtsc()
	time.Sleep(d)
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &b) != nil {
		return 0
	}
	to := rdtsc()
	if ns := b.Nano() - a.Nano(); ns > 0 && to > from {
		return (to - from) * 1_000_000 / uint64(ns)
	}
	return 0
}
