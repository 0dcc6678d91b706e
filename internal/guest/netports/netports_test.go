package netports

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"berth.dev/internal/guestapi"
)

const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F91 0100007F:A000 01 00000000:00000000 00:00000000 00000000  1000        0 12346 1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12347 1
   3: nonsense
   4: 0100:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   5: 00000000:10016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
`

const tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:0BB8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     5        0 1 1
   1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
`

func TestList(t *testing.T) {
	proc := t.TempDir()
	if got, err := List(proc); len(got) != 0 || err != nil {
		t.Errorf("no tables: %v, %v", got, err)
	}
	if err := os.Mkdir(filepath.Join(proc, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"tcp": tcp, "tcp6": tcp6} {
		if err := os.WriteFile(filepath.Join(proc, "net", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := List(proc)
	want := []guestapi.Port{
		{Addr: "0.0.0.0", Port: 22}, {Addr: "127.0.0.1", Port: 80},
		{Addr: "::1", Port: 3000, UID: 5}, {Addr: "127.0.0.1", Port: 8080, UID: 1000},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// The kernel that runs the test agrees.
func TestRunningKernel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := netip.MustParseAddrPort(l.Addr().String())
	ports, err := List("/proc")
	for _, p := range ports {
		if p.Addr == "127.0.0.1" && p.Port == want.Port() {
			return
		}
	}
	t.Errorf("%s is not in %v, %v", want, ports, err)
}

func FuzzParse(f *testing.F) {
	f.Add(tcp)
	f.Add(tcp6)
	f.Fuzz(func(t *testing.T, s string) {
		for _, p := range Parse(strings.NewReader(s)) {
			if _, err := netip.ParseAddr(p.Addr); err != nil {
				t.Errorf("%+v: %v", p, err)
			}
		}
	})
}
