// Package registry runs Debian's docker-registry on a loopback port over a
// storage directory. It owns the process from start to stop and never touches
// what is stored.
package registry

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// Server is one running docker-registry.
type Server struct {
	// Address is the host:port that it answers on.
	Address string

	command *exec.Cmd
	exited  chan error
}

// Options say what is served and to whom the log goes.
type Options struct {
	// Program is the docker-registry executable.
	Program string
	// Storage is the root directory of the filesystem driver.
	Storage string
	// Config is where its configuration file is written.
	Config string
	// ReadOnly refuses pushes and deletes.
	ReadOnly bool
	// Log receives the registry's own output.
	Log io.Writer
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// Start runs a registry and returns once it listens. The kernel picks the port
// and the registry's log tells which, so that no port is guessed. The caller
// must hold its thread (runtime.LockOSThread): the registry is told to die with
// the thread that started it.
func Start(o Options) (*Server, error) {
	storage, err := filepath.Abs(o.Storage)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: info, formatter: text, accesslog: {disabled: false}}
storage:
  filesystem: {rootdirectory: %q}
  cache: {blobdescriptor: inmemory}
  maintenance: {readonly: {enabled: %t}, uploadpurging: {enabled: false}}
http: {addr: "127.0.0.1:0", secret: "loopback only"}
`, storage, o.ReadOnly)
	if err := os.WriteFile(o.Config, []byte(config), 0o600); err != nil {
		return nil, err
	}

	command := exec.Command(o.Program, "serve", o.Config)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Program, err)
	}

	s := &Server{command: command, exited: make(chan error, 1)}
	address := make(chan string, 1)
	var said bytes.Buffer
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		found := false
		lines := bufio.NewReader(reader)
		for {
			line, err := lines.ReadBytes('\n')
			if o.Log != nil {
				o.Log.Write(line)
			}
			if !found {
				said.Write(line)
				if m := listening.FindSubmatch(line); m != nil {
					found = true
					address <- string(m[1])
				}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		err := command.Wait()
		writer.Close()
		<-drained
		s.exited <- err
	}()

	select {
	case s.Address = <-address:
		return s, nil
	case err := <-s.exited:
		return nil, fmt.Errorf("%s ended before it listened (%v):\n%s", o.Program, err, said.Bytes())
	case <-time.After(30 * time.Second):
		s.exit()
		return nil, fmt.Errorf("%s did not listen within 30 s:\n%s", o.Program, said.Bytes())
	}
}

// Stop ends the registry and waits for it.
func (s *Server) Stop() {
	s.command.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		s.exited <- err
	case <-time.After(5 * time.Second):
	}
	s.exit()
}

func (s *Server) exit() {
	s.command.Process.Kill()
	<-s.exited
}
