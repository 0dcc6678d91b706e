package supervisor

import "berth.dev/internal/guestapi"

// trustEnv leads the tools that do not ask the system which authorities it
// trusts to the system's own file, to which the guest adds the sandbox's. It
// stands below the user's own variables.
var trustEnv = map[string]string{
	// These add to a list of the tool's own.
	"NODE_EXTRA_CA_CERTS": guestapi.TrustFile, // Node.js, npm, pnpm, yarn, Bun, Electron
	"DENO_CERT":           guestapi.TrustFile, // Deno
	// These replace it. The first is OpenSSL's, and so Python's, Ruby's, PHP's
	// and Perl's; that of Rust's native-certs and so uv's; Go's; Julia's.
	"SSL_CERT_FILE":                      guestapi.TrustBundle,
	"REQUESTS_CA_BUNDLE":                 guestapi.TrustBundle, // Python: requests
	"PIP_CERT":                           guestapi.TrustBundle, // pip
	"HTTPLIB2_CA_CERTS":                  guestapi.TrustBundle, // Python: httplib2, of Google's libraries
	"CURL_CA_BUNDLE":                     guestapi.TrustBundle, // curl, where it was built elsewhere
	"GIT_SSL_CAINFO":                     guestapi.TrustBundle, // git
	"AWS_CA_BUNDLE":                      guestapi.TrustBundle, // AWS command line and SDKs
	"CARGO_HTTP_CAINFO":                  guestapi.TrustBundle, // cargo
	"BUNDLE_SSL_CA_CERT":                 guestapi.TrustBundle, // Ruby: bundler
	"HEX_CACERTS_PATH":                   guestapi.TrustBundle, // Elixir: hex
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH":   guestapi.TrustBundle, // gRPC's C core
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": guestapi.TrustBundle, // gcloud
	"NIX_SSL_CERT_FILE":                  guestapi.TrustBundle, // Nix
}
