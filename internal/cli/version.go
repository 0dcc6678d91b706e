package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"berth.dev/internal/version"
)

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  wants(0, 0),
		RunE:  func(cmd *cobra.Command, args []string) error { return runVersion(a) },
	}
}

type versionJSON struct {
	Berth  string `json:"berth"`
	Engine string `json:"engine"` // its build
	Go     string `json:"go"`
	Arch   string `json:"arch"`
}

func runVersion(a *app) error {
	v := versionJSON{Berth: version.Version, Go: runtime.Version(), Arch: runtime.GOARCH}
	if eng, err := a.env.Engines.Lookup(""); err == nil {
		v.Engine = eng.Build()
	}
	if a.json {
		return printJSON(a.Out, v)
	}
	fmt.Fprintf(a.Out, "berth %s (%s, %s, %s)\n", v.Berth, v.Engine, v.Go, v.Arch)
	return nil
}
