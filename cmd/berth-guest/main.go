// Command berth-guest is PID 1 of a sandbox. See package guest.
package main

import (
	"os"

	"berth.dev/internal/guest"
)

func main() {
	os.Exit(guest.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
}
