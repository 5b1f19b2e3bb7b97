// The one program of the images that the cluster's own tests run, and of its pause image.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	usage   = "usage: app pause | serve PORT | get URL | resolve NAME | capabilities"
	timeout = 5 * time.Second
	// An answer that is longer is not ours.
	maxAnswer = 64 << 10
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch len(arguments) {
	case 1:
		switch arguments[0] {
		case "pause":
			return pause()
		case "capabilities":
			return capabilities()
		}
	case 2:
		switch arguments[0] {
		case "serve":
			return serve(arguments[1])
		case "get":
			return get(arguments[1])
		case "resolve":
			return resolve(arguments[1])
		}
	}
	return fmt.Errorf("%s", usage)
}

// pause holds a pod's namespaces open, and reaps what its containers leave when they share a PID namespace.
func pause() error {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	child := make(chan os.Signal, 1)
	signal.Notify(child, syscall.SIGCHLD)
	for {
		select {
		case <-end:
			return nil
		case <-child:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

// serve answers with who it is and whom it sees, and writes a line per request.
func serve(port string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "pod %s\nclient %s\n", name, r.RemoteAddr)
		fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
	}
	server := &http.Server{Addr: ":" + port, Handler: http.HandlerFunc(handler), ReadHeaderTimeout: timeout}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		server.Close()
	}()
	fmt.Println("serving on port", port)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func get(url string) error {
	client := &http.Client{Timeout: timeout}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, err = os.Stdout.Write(body)
	return err
}

func resolve(name string) error {
	addresses, err := net.LookupHost(name)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(addresses, "\n"))
	return nil
}

// capabilities prints the effective set as the kernel shows it.
func capabilities() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "CapEff:") {
			fmt.Print(line)
		}
	}
	return pause()
}
