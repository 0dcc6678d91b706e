package debian

import (
	"math/rand/v2"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	// Each line is in strictly rising order, the cases of Policy 5.6.12 first.
	rising := [][]string{
		{"1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a"},
		{"0", "1", "2", "10"},
		{"1.2.3", "1.2.4", "1.2.10", "1.10"},
		{"1.0~beta1~svn1245", "1.0~beta1", "1.0"},
		{"9", "1:1", "1:2", "2:0"},
		{"1.0-1~deb13u1", "1.0-1", "1.0-1+b1", "1.0-1+deb13u1", "1.0-1.1", "1.0-2"},
		{"1.0", "1.0-1"}, // an absent revision is "0", which is less than "1"
		{"1.0A", "1.0Z", "1.0a", "1.0z", "1.0+", "1.0."},
		{"3.0~rc1-1", "3.0-1", "3.0.1-1"},
		{"20250101999999999999999999", "20250102000000000000000000"},
		{"1-0a", "1-0b", "1-1"},
		{"2.41-12", "2.41-12+deb13u1", "2.41-12+deb13u4", "2.42-1"},
		{"1.3.dfsg+really1.3.1-1+b1", "1:1.3.dfsg+really1.3.1-1+b1"},
	}
	for _, line := range rising {
		for i := range line {
			for j := range line {
				want := min(max(i-j, -1), 1)
				if got := CompareVersions(line[i], line[j]); sign(got) != want {
					t.Errorf("CompareVersions(%q, %q) = %d, want %d", line[i], line[j], got, want)
				}
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.00"}, {"0:1.0", "1.0"}, {"1.0-0", "1.0"}, {"1.0-", "1.0"}, {"1.001", "1.1"}, {"00:1-00", "1"}} {
		if got := CompareVersions(same[0], same[1]); got != 0 {
			t.Errorf("CompareVersions(%q, %q) = %d, want 0", same[0], same[1], got)
		}
	}
}

// TestCompareVersionsIsTotalOrder: antisymmetric and transitive on random
// strings of the characters that matter.
func TestCompareVersionsIsTotalOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		b := make([]byte, rng.IntN(7))
		for i := range b {
			b[i] = "0019aZ~+.-:"[rng.IntN(11)]
		}
		return string(b)
	}
	for range 200_000 {
		checkOrder(t, word(), word(), word())
	}
}

func checkOrder(t *testing.T, a, b, c string) {
	t.Helper()
	if CompareVersions(a, a) != 0 {
		t.Fatalf("%q is not equal to itself", a)
	}
	if sign(CompareVersions(a, b)) != -sign(CompareVersions(b, a)) {
		t.Fatalf("%q and %q: not antisymmetric", a, b)
	}
	if CompareVersions(a, b) <= 0 && CompareVersions(b, c) <= 0 && CompareVersions(a, c) > 0 {
		t.Fatalf("%q, %q, %q: not transitive", a, b, c)
	}
}

func sign(n int) int { return min(max(n, -1), 1) }

func FuzzCompareVersions(f *testing.F) {
	f.Add("1:1.0~rc1-1", "1.0", "2.41-12+deb13u4")
	f.Add("", "-", ":")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		checkOrder(t, a, b, c)
		_ = checkVersion(a)
	})
}

func TestCheckVersion(t *testing.T) {
	for _, ok := range []string{"1", "1.0-1", "1:2.3~rc1+dfsg-4+b5", "0~20200101", "2.41-12+deb13u4", "1-2-3"} {
		if err := checkVersion(ok); err != nil {
			t.Errorf("checkVersion(%q): %v", ok, err)
		}
	}
	for _, bad := range []string{"", "-1", "1/2", "1 2", "1\n2", "../x", "1_2", "1:", "~1", "99999999999:1"} {
		if checkVersion(bad) == nil {
			t.Errorf("checkVersion(%q): no error", bad)
		}
	}
}

func TestRelationHolds(t *testing.T) {
	for _, c := range []struct {
		version, op, bound string
		want               bool
	}{
		{"1", "", "", true}, {"1", "<<", "2", true}, {"2", "<<", "2", false}, {"2", "<=", "2", true}, {"2", "=", "2.0", false},
		{"2", "=", "2", true}, {"2", ">=", "2", true}, {"2", ">>", "2", false}, {"3", ">>", "2", true}, {"2", ">", "2", true}, {"1", "?", "1", false},
	} {
		if got := relationHolds(c.version, c.op, c.bound); got != c.want {
			t.Errorf("%s %s %s: %v", c.version, c.op, c.bound, got)
		}
	}
}
