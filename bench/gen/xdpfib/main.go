// xdpfib attaches one of the programs of xdpfib.bpf.c to devices until it is told to
// end: what weir's forwarding is measured beside, and the sink's.
//
//	xdpfib -o xdpfib.o -do fib r0 r1
//
// It says msg=attached for each device, and on SIGUSR1 what tell has counted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

func main() {
	object := flag.String("o", "xdpfib.o", "the object that the programs are in")
	do := flag.String("do", "fib", "programs, joined by +: fib, redirect, sink, tell, drop, idle, idle_in, idle_out")
	dmac := flag.String("dmac", "", "with redirect: the next hop's MAC; it is behind the last device")
	flag.Parse()
	log.SetFlags(0)
	log.SetPrefix("xdpfib: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *object, *do, *dmac, flag.Args()); err != nil {
		log.Fatalf("%+v", err)
	}
}

func run(ctx context.Context, object, do, dmac string, names []string) error {
	var devices []*net.Interface
	for _, name := range names {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		devices = append(devices, dev)
	}
	if len(devices) == 0 {
		return fmt.Errorf("no devices are named")
	}
	spec, err := ebpf.LoadCollectionSpec(object)
	if err != nil {
		return err
	}
	if do == "redirect" {
		to, err := net.ParseMAC(dmac)
		if err != nil {
			return err
		}
		out := devices[len(devices)-1]
		if err := spec.Variables["output"].Set(uint32(out.Index)); err != nil {
			return err
		}
		if err := spec.Variables["macs"].Set([12]byte(append(to, out.HardwareAddr...))); err != nil {
			return err
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, dev := range devices {
		if err := c.Maps["tx"].Put(uint32(dev.Index), uint32(dev.Index)); err != nil {
			return err
		}
		for name := range strings.SplitSeq(do, "+") {
			l, err := attach(c.Programs[name], name, dev.Index)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", name, dev.Name, err)
			}
			defer l.Close()
		}
		fmt.Printf("msg=attached program=%s device=%s\n", do, dev.Name)
	}
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, unix.SIGUSR1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ask:
			var udp, tcp uint64
			if err := errors.Join(c.Maps["arrived"].Lookup(uint32(unix.IPPROTO_UDP), &udp), c.Maps["arrived"].Lookup(uint32(unix.IPPROTO_TCP), &tcp)); err != nil {
				return err
			}
			fmt.Printf("{\"UDP\":%d,\"TCP\":%d}\n", udp, tcp)
		}
	}
}

// attach attaches a program where it belongs.
func attach(prog *ebpf.Program, name string, ifindex int) (link.Link, error) {
	switch {
	case prog == nil:
		return nil, errors.New("there is no such program")
	case prog.Type() == ebpf.XDP:
		return link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex})
	}
	at := ebpf.AttachTCXIngress
	if strings.HasSuffix(name, "_out") {
		at = ebpf.AttachTCXEgress
	}
	return link.AttachTCX(link.TCXOptions{Program: prog, Interface: ifindex, Attach: at})
}
