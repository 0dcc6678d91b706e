package guestapi

// BrowseRequest opens a channel by which the guest asks for web pages to be
// shown. The client may refuse any.
type BrowseRequest struct{}

// Check implements checker.
func (*BrowseRequest) Check() error { return nil }

// Page is a web page that a program in the guest wants shown to the user.
type Page struct {
	URL string `json:"url"`
}

// Check refuses an address that is none.
func (p *Page) Check() error {
	if p.URL == "" || len(p.URL) > MaxPage {
		return Errorf(Invalid, "page with an address of %d bytes", len(p.URL))
	}
	return nil
}

// Shown answers a Page.
type Shown struct {
	// Error is why it is not shown; "" when it is.
	Error string `json:"error,omitempty"`
}
