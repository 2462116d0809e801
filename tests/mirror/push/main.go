// Command push makes container images out of plain trees and stores them in the
// storage directory of a docker-registry. What it is to make comes as JSON on
// standard input: an array of images. It prints one line for each reference:
// the reference and the digest it stands for.
//
// The bytes depend on the trees' content only: entries are sorted, times are
// fixed, and owners are root, so the same programs give the same digests.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"example.invalid/chasi/mirror/registry"
)

// image is one repository's image under one or more tags.
type image struct {
	Repository string     `json:"repository"`
	Tags       []string   `json:"tags"`
	Docker     bool       `json:"docker"` // Docker schema 2 instead of OCI
	Index      bool       `json:"index"`  // a list even with one platform
	Platforms  []platform `json:"platforms"`
}

// platform is what the image holds for one platform.
type platform struct {
	Platform string   `json:"platform"` // os/architecture
	Trees    []string `json:"trees"`    // one layer each
	Config   config   `json:"config"`
	// BindService is the path of the one file that may bind low ports, as setcap
	// cap_net_bind_service=+ep would have it.
	BindService string `json:"bindService"`
}

type config struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

// kinds are the media types of one of the two families.
type kinds struct{ index, manifest, config, layer string }

var (
	oci = kinds{
		"application/vnd.oci.image.index.v1+json",
		"application/vnd.oci.image.manifest.v1+json",
		"application/vnd.oci.image.config.v1+json",
		"application/vnd.oci.image.layer.v1.tar+gzip",
	}
	docker = kinds{
		"application/vnd.docker.distribution.manifest.list.v2+json",
		"application/vnd.docker.distribution.manifest.v2+json",
		"application/vnd.docker.container.image.v1+json",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
	}
)

type descriptor struct {
	MediaType string       `json:"mediaType"`
	Size      int          `json:"size"`
	Digest    string       `json:"digest"`
	Platform  *ociPlatform `json:"platform,omitempty"`
}

type ociPlatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// epoch is the time of everything in an image.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func main() {
	storage := flag.String("storage", "", "storage directory of the registry")
	program := flag.String("registry", "", "the docker-registry program")
	flag.Parse()
	// The registry dies with this thread.
	runtime.LockOSThread()
	if err := run(*storage, *program); err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

func run(storage, program string) error {
	var images []image
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&images); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	private, err := os.MkdirTemp(filepath.Dir(storage), "push-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(private)
	server, err := registry.Start(registry.Options{Program: program, Storage: storage, Config: filepath.Join(private, "registry.yml")})
	if err != nil {
		return err
	}
	defer server.Stop()
	c := client{base: "http://" + server.Address + "/v2/", layers: map[string]layer{}}
	for _, image := range images {
		digest, err := c.image(image)
		if err != nil {
			return fmt.Errorf("%s: %w", image.Repository, err)
		}
		for _, tag := range image.Tags {
			fmt.Printf("%s:%s %s\n", image.Repository, tag, digest)
		}
	}
	return nil
}

type client struct {
	base   string
	layers map[string]layer // by tree
}

// image pushes every platform and whatever names them, and tags that.
func (c *client) image(i image) (string, error) {
	kind := oci
	if i.Docker {
		kind = docker
	}
	var manifests []descriptor
	var last []byte
	for _, p := range i.Platforms {
		manifest, err := c.platform(i.Repository, kind, p)
		if err != nil {
			return "", err
		}
		os, architecture, ok := strings.Cut(p.Platform, "/")
		if !ok {
			return "", fmt.Errorf("platform %q is not os/architecture", p.Platform)
		}
		d := descriptor{MediaType: kind.manifest, Size: len(manifest), Digest: digestOf(manifest),
			Platform: &ociPlatform{Architecture: architecture, OS: os}}
		manifests = append(manifests, d)
		last = manifest
		if i.Index || len(i.Platforms) > 1 {
			if err := c.manifest(i.Repository, d.Digest, kind.manifest, manifest); err != nil {
				return "", err
			}
		}
	}
	top, mediaType := last, kind.manifest
	if i.Index || len(i.Platforms) > 1 {
		mediaType = kind.index
		top = encode(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": manifests})
	}
	for _, tag := range i.Tags {
		if err := c.manifest(i.Repository, tag, mediaType, top); err != nil {
			return "", err
		}
	}
	return digestOf(top), nil
}

func (c *client) platform(repository string, kind kinds, p platform) ([]byte, error) {
	var layers []descriptor
	var ids []string
	var history []map[string]any
	for _, tree := range p.Trees {
		l, err := c.layer(tree, p.BindService)
		if err != nil {
			return nil, err
		}
		if err := c.blob(repository, l.blob); err != nil {
			return nil, err
		}
		layers = append(layers, descriptor{MediaType: kind.layer, Size: len(l.blob), Digest: digestOf(l.blob)})
		ids = append(ids, l.id)
		history = append(history, map[string]any{"created": epoch, "created_by": "chasi scripts/mirror"})
	}
	os, architecture, _ := strings.Cut(p.Platform, "/")
	configuration := encode(map[string]any{
		"created": epoch, "architecture": architecture, "os": os, "config": p.Config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": ids},
		"history": history,
	})
	if err := c.blob(repository, configuration); err != nil {
		return nil, err
	}
	return encode(map[string]any{
		"schemaVersion": 2, "mediaType": kind.manifest,
		"config": descriptor{MediaType: kind.config, Size: len(configuration), Digest: digestOf(configuration)},
		"layers": layers,
	}), nil
}

// blob uploads bytes in one go, unless the repository holds them already.
func (c *client) blob(repository string, data []byte) error {
	digest := digestOf(data)
	response, err := http.Head(c.base + repository + "/blobs/" + digest)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	response, err = http.Post(c.base+repository+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		return fmt.Errorf("begin upload: %s", response.Status)
	}
	at, err := response.Location()
	if err != nil {
		return err
	}
	query := at.Query()
	query.Set("digest", digest)
	at.RawQuery = query.Encode()
	return c.put(at, "application/octet-stream", data)
}

func (c *client) manifest(repository, reference, mediaType string, data []byte) error {
	at, err := url.Parse(c.base + repository + "/manifests/" + reference)
	if err != nil {
		return err
	}
	return c.put(at, mediaType, data)
}

func (c *client) put(at *url.URL, mediaType string, data []byte) error {
	request, err := http.NewRequest(http.MethodPut, at.String(), bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", mediaType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return fmt.Errorf("put %s: %s: %s", at.Path, response.Status, body)
	}
	return nil
}

type layer struct {
	id   string // the digest of the uncompressed bytes
	blob []byte
}

func (c *client) layer(tree, bindService string) (layer, error) {
	if l, ok := c.layers[tree]; ok {
		return l, nil
	}
	var compressed bytes.Buffer
	id := sha256.New()
	zip := gzip.NewWriter(&compressed)
	archive := tar.NewWriter(io.MultiWriter(zip, id))
	// WalkDir goes in lexical order.
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		return add(archive, path, name, "/"+name == bindService)
	})
	if err != nil {
		return layer{}, err
	}
	if err := archive.Close(); err != nil {
		return layer{}, err
	}
	if err := zip.Close(); err != nil {
		return layer{}, err
	}
	l := layer{id: fmt.Sprintf("sha256:%x", id.Sum(nil)), blob: compressed.Bytes()}
	c.layers[tree] = l
	return l, nil
}

func add(archive *tar.Writer, path, name string, bindService bool) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	// Only what makes the tree: the maker's user and clock stay out.
	plain := tar.Header{Typeflag: header.Typeflag, Name: filepath.ToSlash(name), Linkname: header.Linkname,
		Mode: header.Mode, Size: header.Size, ModTime: epoch, Format: tar.FormatPAX}
	if info.IsDir() {
		plain.Name += "/"
	}
	if bindService {
		plain.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": netBindService()}
	}
	if err := archive.WriteHeader(&plain); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}

// netBindService is the kernel's vfs_cap_data, revision 2, effective, with
// CAP_NET_BIND_SERVICE (10) permitted.
func netBindService() string {
	var data [20]byte
	binary.LittleEndian.PutUint32(data[0:], 0x02000001)
	binary.LittleEndian.PutUint32(data[4:], 1<<10)
	return string(data[:])
}

func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // only maps, strings and numbers come here
	}
	return data
}

func digestOf(data []byte) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}
