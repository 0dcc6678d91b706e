package cli

import "github.com/spf13/cobra"

// exitCodesText is in the help of every command that ends with another's
// status, and a topic of its own.
const exitCodesText = `Exit status:
  0-124, 128-255   the agent's or the command's own; 128+N when signal N ended it
  125              an error of Berth's
  126              the command cannot be executed
  127              the command was not found`

func newExitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit status says",
		Long: exitCodesText + `

The commands that start nothing end with 0 or 125. ` + "`berth doctor`" + ` ends with 1
when something does not work.`,
	}
}

func newEnvironmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "Variables that Berth reads",
		Long: `Berth reads these variables:
  BERTH_HOME        folder for all that Berth keeps, instead of the three below
  XDG_DATA_HOME     sandboxes and images, in berth/ (~/.local/share)
  XDG_CONFIG_HOME   configuration, in berth/ (~/.config)
  XDG_RUNTIME_DIR   sockets, in berth/ (a folder in /tmp that is only yours)
  NO_COLOR          when set, nothing is coloured

A session is given TERM, COLORTERM, TZ and the language of your shell, and the
keys of its agent that are set there; ` + "`berth doctor`" + ` names those. Any other
variable has to be passed with -e.`,
	}
}
