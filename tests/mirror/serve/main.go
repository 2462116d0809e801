// Command serve is the local mirror while it runs: a server for static files, a
// docker-registry over ready storage, and the configuration file that sends
// chasi to both. With a command it runs that and ends with its exit code;
// without one it serves until it is told to stop.
//
// It owns the servers' processes and one private directory, and leaves neither
// behind. It never changes what it serves.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"example.invalid/chasi/mirror/registry"
)

type options struct {
	roots   []string // component directories, each with http/ and registry/
	program string   // docker-registry
	state   string   // where the private directories of runs are made
	log     string
	command []string
}

func main() {
	var o options
	flag.StringVar(&o.program, "registry", "", "the docker-registry program")
	flag.StringVar(&o.state, "state", "", "directory for what lives as long as this run, on the components' file system")
	flag.StringVar(&o.log, "log", "", "append the servers' log to this file")
	flag.Func("component", "a component's directory (repeatable)", func(dir string) error {
		o.roots = append(o.roots, dir)
		return nil
	})
	flag.Parse()
	o.command = flag.Args()

	// Registry and command are told to die with the thread that started them.
	runtime.LockOSThread()
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mirror:", err)
		os.Exit(125)
	}
	os.Exit(code)
}

func run(o options) (int, error) {
	// Ask for signals before anything exists that would have to be removed.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)

	log := io.Discard
	if o.log != "" {
		file, err := os.OpenFile(o.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		log = file
	}

	private, release, err := privateDir(o.state)
	if err != nil {
		return 0, err
	}
	defer release()
	storage := filepath.Join(private, "registry")
	if err := merge(o.roots, storage); err != nil {
		return 0, err
	}
	server, err := registry.Start(registry.Options{Program: o.program, Storage: storage,
		Config: filepath.Join(private, "registry.yml"), ReadOnly: true, Log: log})
	if err != nil {
		return 0, err
	}
	defer server.Stop()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	files := &http.Server{Handler: &static{roots: o.roots, log: log}}
	go files.Serve(listener)
	defer files.Close()

	config := filepath.Join(private, "config.yaml")
	text, err := configuration(o.roots, "http://"+listener.Addr().String(), "http://"+server.Address)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, err
	}
	environment := []string{
		"CHASI_CONFIG=" + config,
		"CHASI_MIRROR_HTTP=http://" + listener.Addr().String(),
		"CHASI_MIRROR_REGISTRY=" + server.Address,
	}
	if len(o.command) == 0 {
		fmt.Println(strings.Join(environment, "\n"))
		<-signals
		return 0, nil
	}
	return command(o.command, environment, signals)
}

// command runs argv to its end and passes signals on.
func command(argv, environment []string, signals <-chan os.Signal) (int, error) {
	child := exec.Command(argv[0], argv[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), environment...)
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := child.Start(); err != nil {
		// What a shell would say of it.
		fmt.Fprintln(os.Stderr, "mirror:", err)
		if errors.Is(err, os.ErrPermission) {
			return 126, nil
		}
		return 127, nil
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			// What is typed at a terminal reaches the whole foreground group: the
			// command has it already, and a second one means something else to it.
			typed := s == syscall.SIGINT || s == syscall.SIGQUIT
			if !typed || !foreground() {
				child.Process.Signal(s)
			}
		case err := <-done:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, err
			}
			status := child.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}

// foreground tells whether this process group is the terminal's foreground one.
func foreground() bool {
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer terminal.Close()
	var group int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, terminal.Fd(), syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group)))
	return errno == 0 && int(group) == syscall.Getpgrp()
}

// privateDir makes a directory that only this run uses and that is swept after a
// killed one: its lock is what tells.
func privateDir(state string) (string, func(), error) {
	leftovers, err := filepath.Glob(filepath.Join(state, "serve-*"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range leftovers {
		if lock, err := lockDir(dir); err == nil {
			os.RemoveAll(dir)
			lock.Close()
		}
	}
	unlocked, err := os.MkdirTemp(state, "new-")
	if err != nil {
		return "", nil, err
	}
	lock, err := lockDir(unlocked)
	if err != nil {
		return "", nil, fmt.Errorf("lock %s: %w", unlocked, err)
	}
	// Only now by the name that others sweep, or they could take it for left over.
	dir := filepath.Join(state, "serve-"+strings.TrimPrefix(filepath.Base(unlocked), "new-"))
	if err := os.Rename(unlocked, dir); err != nil {
		return "", nil, err
	}
	return dir, func() {
		os.RemoveAll(dir)
		lock.Close()
	}, nil
}

// merge joins the components' registry storage by hard links. It only ever adds:
// blobs are named by their digest, and tags by repository.
func merge(roots []string, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for _, root := range roots {
		if err := link(filepath.Join(root, "registry"), to); err != nil {
			return err
		}
	}
	return nil
}

func lockDir(dir string) (*os.File, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func link(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		a, b := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		if entry.IsDir() {
			if err := os.MkdirAll(b, 0o755); err != nil {
				return err
			}
			if err := link(a, b); err != nil {
				return err
			}
			continue
		}
		if err := os.Link(a, b); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// configuration names every host that a component mirrors, so that a reference
// to any other one goes where it always goes.
func configuration(roots []string, files, registry string) (string, error) {
	sites, err := children(roots, "http")
	if err != nil {
		return "", err
	}
	registries, err := children(roots, "registry/docker/registry/v2/repositories")
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("mirrors:\n")
	for _, host := range sites {
		fmt.Fprintf(&text, "  - from: https://%s\n    to: %s/%s\n", host, files, host)
	}
	for _, host := range registries {
		fmt.Fprintf(&text, "  - from: %s\n    to: %s/%s\n", host, registry, host)
	}
	return text.String(), nil
}

func children(roots []string, below string) ([]string, error) {
	var names []string
	for _, root := range roots {
		entries, err := os.ReadDir(filepath.Join(root, below))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if !slices.Contains(names, entry.Name()) {
				names = append(names, entry.Name())
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// static serves HOST/PATH out of the first component that has it.
type static struct {
	roots []string
	log   io.Writer
	mutex sync.Mutex
}

func (s *static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := s.serve(w, r)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	fmt.Fprintf(s.log, "%s files %s %s %d\n", time.Now().UTC().Format(time.RFC3339), r.Method, r.URL.Path, status)
}

func (s *static) serve(w http.ResponseWriter, r *http.Request) int {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "read only", http.StatusMethodNotAllowed)
		return http.StatusMethodNotAllowed
	}
	// Clean resolves ".." against the root, so nothing above it can be named.
	name := path.Clean("/" + r.URL.Path)
	for _, root := range s.roots {
		file, err := os.Open(filepath.Join(root, "http", filepath.FromSlash(name)))
		if err != nil {
			continue
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", info.ModTime(), file)
		return http.StatusOK
	}
	http.NotFound(w, r)
	return http.StatusNotFound
}
