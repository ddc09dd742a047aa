// xdpfib attaches one of the programs of xdpfib.bpf.c to devices until it is told to
// end: what weir's forwarding is measured beside, and the sink's.
//
//	xdpfib -o xdpfib.o -do fib r0 r1
//
// It says msg=attached for each device.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

func main() {
	object := flag.String("o", "xdpfib.o", "the object that the programs are in")
	do := flag.String("do", "fib", "program: fib, redirect, sink, drop or idle")
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
	prog, ok := c.Programs[do]
	if !ok {
		return fmt.Errorf("no program is called %q", do)
	}
	for _, dev := range devices {
		if err := c.Maps["tx"].Put(uint32(dev.Index), uint32(dev.Index)); err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: dev.Index})
		if err != nil {
			return fmt.Errorf("%s: %w", dev.Name, err)
		}
		defer l.Close()
		fmt.Printf("msg=attached program=%s device=%s\n", do, dev.Name)
	}
	<-ctx.Done()
	return nil
}
