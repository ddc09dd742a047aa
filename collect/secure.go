package collect

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/pion/dtls/v3"
)

// secure is what an address of TLS or DTLS says after its ?: files in PEM, and who
// is let in.
type secure struct {
	cert, key, ca string
	allow         []string // names, one of which a certificate must have; none: any
}

// parseSecure reads cert=FILE&key=FILE&ca=FILE&allow=NAME,NAME.
func parseSecure(query string) (s secure, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return s, err
	}
	for name, v := range values {
		switch {
		case len(v) > 1:
			return s, fmt.Errorf("%s is given twice", name)
		case name == "cert":
			s.cert = v[0]
		case name == "key":
			s.key = v[0]
		case name == "ca":
			s.ca = v[0]
		case name == "allow":
			s.allow = strings.Split(v[0], ",")
		default:
			return s, fmt.Errorf("%s is unknown; accepted: cert, key, ca, allow", name)
		}
	}
	if s.cert == "" || s.key == "" || s.ca == "" {
		return s, errors.New("accepted: cert=FILE&key=FILE&ca=FILE, all three: exporters and collector show each other their certificates (RFC 7011 section 11)")
	}
	return s, nil
}

func (s secure) load() (pair tls.Certificate, clients *x509.CertPool, err error) {
	if pair, err = tls.LoadX509KeyPair(s.cert, s.key); err != nil {
		return pair, nil, err
	}
	pem, err := os.ReadFile(s.ca)
	if err != nil {
		return pair, nil, err
	}
	clients = x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return pair, nil, fmt.Errorf("%s has no certificate in PEM", s.ca)
	}
	return pair, clients, nil
}

// verify lets in the names that are allowed. The chain was verified before.
func (s secure) verify(_ [][]byte, chains [][]*x509.Certificate) error {
	if len(s.allow) == 0 {
		return nil
	}
	if len(chains) == 0 || len(chains[0]) == 0 {
		return errors.New("no certificate")
	}
	c := chains[0][0]
	names := append(slices.Clone(c.DNSNames), c.Subject.CommonName)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, n := range names {
		if slices.Contains(s.allow, n) {
			return nil
		}
	}
	return fmt.Errorf("a certificate of %s, who is not allowed here", strings.Join(names, ", "))
}

func (s secure) tls() (*tls.Config, error) {
	pair, clients, err := s.load()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		VerifyPeerCertificate: s.verify, MinVersion: tls.VersionTLS12,
		SessionTicketsDisabled: true, // a resumed session would not be verified anew
	}, nil
}

func (e endpoint) listenDTLS() (net.Listener, error) {
	pair, clients, err := e.secure.load()
	if err != nil {
		return nil, err
	}
	at, err := net.ResolveUDPAddr("udp", e.address)
	if err != nil {
		return nil, err
	}
	// See first that the port is free, for a clear error.
	probe, err := net.ListenUDP("udp", at)
	if err != nil {
		return nil, err
	}
	at = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(probe.LocalAddr().String()))
	probe.Close()
	return dtls.ListenWithOptions("udp", at, dtls.WithCertificates(pair), dtls.WithClientCAs(clients), dtls.WithClientAuth(dtls.RequireAndVerifyClientCert),
		dtls.WithVerifyPeerCertificate(e.secure.verify), dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret))
}
