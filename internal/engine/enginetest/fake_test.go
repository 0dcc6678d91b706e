package enginetest

import "testing"

// TestFake shows that what is tested with the fake holds with a real engine.
func TestFake(t *testing.T) { Suite(t, NewFake()) }
