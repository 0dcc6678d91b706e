package runc

import (
	"slices"
	"strings"

	"berth.dev/internal/guestapi"
)

// The folder in a container, and what is in it.
const (
	inside       = "/dev/.berth"
	authorityPEM = "ca.crt"        // the sandbox's authority
	bundlePEM    = "ca-bundle.crt" // with those that the image trusts
	keyStore     = "cacerts.jks"   // the same for Java
	wgetrc       = "wgetrc"
	aptConf      = "apt.conf"
)

// aptConfiguration is for apt before its version 3, which asks no variable that
// others ask too.
const aptConfiguration = `Acquire::https::CAInfo "` + inside + "/" + bundlePEM + "\";\n"

// wgetConfiguration is what GNU Wget, where it is made with GnuTLS, needs after
// what it would have read.
const wgetConfiguration = "\nca_certificate = " + inside + "/" + bundlePEM + "\n"

// javaOption has a JVM read the authorities in a key store. It says so on its
// standard error when it starts; there is no quieter way that leaves the image's
// own files alone.
const javaOption = "-Djavax.net.ssl.trustStore=" + inside + "/" + keyStore + " -Djavax.net.ssl.trustStoreType=JKS"

// trustVariables are those of the daemon's environment that lead to the
// authority, as containers need them.
func trustVariables(environ []string) map[string]string {
	vars := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case !guestapi.IsTrustVariable(name, value):
		case value == guestapi.TrustFile:
			vars[name] = inside + "/" + authorityPEM
		default:
			vars[name] = inside + "/" + bundlePEM
		}
	}
	return vars
}

// extend adds variables to a process's own, which win. It also adds those for
// tools that need a file of another form.
func extend(env []string, vars map[string]string) []string {
	all := map[string]string{"SYSTEM_WGETRC": inside + "/" + wgetrc, "APT_CONFIG": inside + "/" + aptConf}
	for name, value := range vars {
		all[name] = value
	}
	if isJava(env) {
		all["JAVA_TOOL_OPTIONS"] = javaOption
	}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		delete(all, name)
	}
	added := make([]string, 0, len(all))
	for name, value := range all {
		added = append(added, name+"="+value)
	}
	slices.Sort(added)
	return append(slices.Clip(env), added...)
}

// isJava says whether an image is one of Java's, by what all of those set.
func isJava(env []string) bool {
	return slices.ContainsFunc(env, func(kv string) bool {
		return strings.HasPrefix(kv, "JAVA_HOME=") || strings.HasPrefix(kv, "JAVA_VERSION=")
	})
}
