package supervisor

import "berth.dev/internal/guestapi"

// trustEnv leads the tools that do not ask the system which authorities it
// trusts to the system's own file, to which the guest adds the sandbox's. It
// stands below the user's own variables.
var trustEnv = map[string]string{
	"NODE_EXTRA_CA_CERTS": guestapi.TrustFile, // Node.js, npm and what is made with it: added to its own list
	"DENO_TLS_CA_STORE":   "system,mozilla",   // Deno
	// OpenSSL's, and so Python's and Ruby's; Rust's native-certs; Go's; uv.
	"SSL_CERT_FILE":                      guestapi.TrustBundle,
	"REQUESTS_CA_BUNDLE":                 guestapi.TrustBundle, // Python: requests
	"PIP_CERT":                           guestapi.TrustBundle, // pip
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
