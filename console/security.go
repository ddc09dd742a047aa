package console

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// policy lets a page load what this server embeds, and nothing else: no inline
// script or style, no eval, no markup made from strings.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guard stands before every route.
func (s *Server) guard(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{Status: http.StatusForbidden, Message: "refused: this request comes from another site"})
	}))
	next = origin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
		if !s.hostAllowed(r) {
			writeError(w, &apiError{
				Status:  http.StatusForbidden,
				Message: "refused: Host " + r.Host + " is not one of this console's names; add it to console.hosts",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed keeps a web page whose name was bound to our address (DNS
// rebinding) from reading the API with its visitor's reach. Addresses cannot be
// bound so; names must be known, on loopback always and elsewhere when Hosts
// lists any.
func (s *Server) hostAllowed(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if _, unix := local.(*net.UnixAddr); unix {
		return true // a socket in the file system, which no page can reach
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	for _, known := range s.opt.Hosts {
		if strings.EqualFold(host, known) {
			return true
		}
	}
	if len(s.opt.Hosts) > 0 {
		return false
	}
	tcp, ok := local.(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback()
}
