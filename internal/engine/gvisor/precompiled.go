package gvisor

// registerPrograms is a placeholder hook until programs are embedded.
func registerPrograms() {}
