# shellcheck shell=bash
# The recipes of scripts/mirror, which says what a recipe is, runs each in an
# empty directory of its own, and keys what it made by the recipe's text.
#
# shellcheck disable=SC2154 # modules comes from there
# shellcheck disable=SC2317 # recipes are called by computed names

# ---------------------------------------------------------------- Go modules

# go_in MODULE ARGUMENT…: go in one of the modules here. The user's own settings
# must not change the bytes.
go_in() {
  local module=$1
  shift
  (cd -- "$modules/$module" &&
    CGO_ENABLED=${CGO_ENABLED:-0} GOTOOLCHAIN=local GOWORK=off GOOS=linux GOARCH=amd64 GOAMD64=v1 \
      GOFLAGS='-mod=readonly -buildvcs=false' nice go "$@")
}

# go_build MODULE OUT LDFLAGS [go build option…] PACKAGE…
go_build() {
  local module=$1 out=$2 ldflags=$3
  shift 3
  mkdir -p -- "$out"
  go_in "$module" build -trimpath -ldflags "-s -w $ldflags" -o "$out/" "$@"
}

# sum_file FILE [SUM]: "HASH  NAME" beside it, as sha256sum writes it.
sum_file() {
  (cd -- "$(dirname -- "$1")" && sha256sum -- "$(basename -- "$1")" >"${2:-$(basename -- "$1").sha256}")
}

# archive FILE.tgz DIR NAME…: the same bytes for the same content.
archive() {
  local file=$1 dir=$2
  shift 2
  mkdir -p -- "$(dirname -- "$file")"
  tar -c --sort=name --mtime=@1767225600 --owner=0 --group=0 --numeric-owner --format=gnu -C "$dir" "$@" |
    gzip -n -6 >"$file"
}

recipe_kubernetes() {
  local version=$1 out=$2 package ldflags='' date program http
  date=$(go_in "kubernetes-v$version" list -m -f '{{.Time.Format "2006-01-02T15:04:05Z"}}' k8s.io/kubernetes)
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ldflags+=" -X $package.gitVersion=v$version -X $package.gitMajor=1"
    ldflags+=" -X $package.gitMinor=$(cut -d. -f2 <<<"$version") -X $package.gitTreeState=clean"
    ldflags+=" -X $package.gitCommit=unknown -X $package.buildDate=$date"
  done
  go_build "kubernetes-v$version" "$out/bin" "$ldflags" \
    k8s.io/kubernetes/cmd/{kubeadm,kubelet,kubectl,kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy}
  http=$out/http/dl.k8s.io/release/v$version/bin/linux/amd64
  mkdir -p -- "$http"
  for program in kubeadm kubelet kubectl; do
    ln -- "$out/bin/$program" "$http/$program"
    # Upstream's file holds the bare hash, without a line end.
    printf '%s' "$(sha256sum <"$http/$program" | cut -d' ' -f1)" >"$http/$program.sha256"
  done
}

recipe_etcd() {
  local version=$1 out=$2 minor
  go_build "etcd-v$version" "$out/bin" '' go.etcd.io/etcd/server/v3
  mv -- "$out/bin/server" "$out/bin/etcd"
  minor=$(cut -d. -f2 <<<"$version")
  # Of 3.5 only the server can be had as a module.
  if ((minor >= 6)); then
    go_build "etcd-v$version" "$out/bin" '' go.etcd.io/etcd/etcdctl/v3 go.etcd.io/etcd/etcdutl/v3
  fi
}

recipe_coredns() {
  go_build "coredns-v$1" "$2/bin" '' github.com/coredns/coredns
}

recipe_containerd() {
  local version=$1 out=$2 http
  go_build "containerd-v$version" "$out/bin" "-X github.com/containerd/containerd/v2/version.Version=v$version" \
    -tags urfave_cli_no_docs github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
  http=$out/http/github.com/containerd/containerd/releases/download/v$version
  archive "$http/containerd-$version-linux-amd64.tar.gz" "$out" bin
  sum_file "$http/containerd-$version-linux-amd64.tar.gz" "containerd-$version-linux-amd64.tar.gz.sha256sum"
}

recipe_runc() {
  local version=$1 out=$2 http
  CGO_ENABLED=1 go_build "runc-v$version" "$out/bin" '-linkmode external -extldflags "-static"' \
    -tags 'seccomp netgo osusergo' github.com/opencontainers/runc
  http=$out/http/github.com/opencontainers/runc/releases/download/v$version
  mkdir -p -- "$http"
  ln -- "$out/bin/runc" "$http/runc.amd64"
  # Upstream's checksum file is clear-signed: the lines stand in an envelope.
  {
    printf -- '-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n'
    (cd -- "$http" && sha256sum runc.amd64)
    printf -- '-----BEGIN PGP SIGNATURE-----\n\nbWFkZSBieSBzY3JpcHRzL21pcnJvcjogbm8gc2lnbmF0dXJl\n-----END PGP SIGNATURE-----\n'
  } >"$http/runc.sha256sum"
}

recipe_cni_plugins() {
  local version=$1 out=$2 http packages
  mapfile -t packages < <(sed -n 's/^\t_ "\(.*\)"$/\1/p' "$modules/cni-plugins-v$version/tools.go")
  go_build "cni-plugins-v$version" "$out/bin" \
    "-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v$version" "${packages[@]}"
  http=$out/http/github.com/containernetworking/plugins/releases/download/v$version
  archive "$http/cni-plugins-linux-amd64-v$version.tgz" "$out/bin" .
  sum_file "$http/cni-plugins-linux-amd64-v$version.tgz"
}

recipe_flannel() {
  local version=$1 out=$2
  CGO_ENABLED=1 go_build "flannel-v$version" "$out/bin" \
    "-linkmode external -extldflags \"-static\" -X github.com/flannel-io/flannel/pkg/version.Version=v$version" \
    -tags 'netgo osusergo' github.com/flannel-io/flannel
  mv -- "$out/bin/flannel" "$out/bin/flanneld"
}

recipe_flannel_cni_plugin() {
  go_build "flannel-cni-plugin-v$1" "$2/bin" '' github.com/containernetworking/plugins/plugins/meta/flannel
}

recipe_flannel_manifest() {
  local version=$1 http=$2/http/github.com/flannel-io/flannel/releases/download/v$1 source
  mkdir -p -- "$http"
  go_in "flannel-v$version" mod download github.com/flannel-io/flannel
  source=$(go_in "flannel-v$version" list -m -f '{{.Dir}}' github.com/flannel-io/flannel)
  # The release's file is the module's own.
  install -m 0644 -- "$source/Documentation/kube-flannel.yml" "$http/kube-flannel.yml"
}

# ---------------------------------------------------------------- Debian

# closure PACKAGE…: the packages and all that they depend on.
closure() {
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
    --no-breaks --no-replaces --no-enhances "$@" 2>/dev/null |
    grep '^[a-z0-9]' | cut -d: -f1 | sort -u
}

# debian_tree DIR PACKAGE…: a tree with these packages unpacked, none configured.
debian_tree() {
  local dir=$1 package name
  shift
  if ! apt-cache policy "$1" | grep -q 'Candidate: [0-9]'; then
    ((EUID == 0)) || die "the package lists are empty; as root: apt-get update"
    apt-get update >/dev/null
  fi
  mkdir -p debs "$dir"/usr/{bin,sbin,lib,lib64}
  (cd debs && apt-get -o APT::Sandbox::User=root download -qq "$@")
  for name in bin sbin lib lib64; do
    ln -s "usr/$name" "$dir/$name"
  done
  for package in debs/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$dir" --keep-directory-symlink -f -
  done
  # What no program reads at run time.
  rm -rf -- "$dir"/usr/share/{doc,man,locale,lintian,bash-completion,info,doc-base} \
    "$dir"/usr/lib/*/gconv "$dir"/usr/lib/*/engines-3 "$dir"/etc/{init.d,default,cron.*}
  for package in debs/*.deb; do
    basename "$package"
  done >"$dir/../packages"
  rm -rf debs
}

recipe_debian_registry() {
  # Unpacked, not installed: the package would start a service on port 5000.
  local out=$2
  debian_tree "$out/tree" docker-registry
  mkdir -p -- "$out/bin"
  mv -- "$out/tree/usr/bin/docker-registry" "$out/bin/docker-registry"
  rm -rf -- "$out/tree"
}

recipe_debian_busybox() {
  local out=$2
  debian_tree "$out/unpacked" busybox-static
  mkdir -p -- "$out/bin"
  mv -- "$out/unpacked/usr/bin/busybox" "$out/bin/busybox"
  rm -rf -- "$out/unpacked"
}

# Debian's own container runtime, an older one than upstream's.
recipe_debian_containerd() {
  local out=$2
  debian_tree "$out/unpacked" containerd runc
  mkdir -p -- "$out/bin"
  mv -- "$out/unpacked/usr/bin"/{containerd,containerd-shim-runc-v2,ctr} "$out/unpacked/usr/sbin/runc" "$out/bin/"
  rm -rf -- "$out/unpacked"
}

# The tree that kube-proxy's and flannel's images stand on.
recipe_debian_netfilter() {
  local out=$2 packages name family
  mapfile -t packages < <(closure iptables conntrack ipset nftables kmod ethtool)
  debian_tree "$out/tree" "${packages[@]}"
  # Debian chooses these when it configures the package; nf_tables is what its
  # kernels and those of the last years use.
  for family in iptables ip6tables; do
    for name in "$family" "$family-save" "$family-restore"; do
      ln -sf "${name/tables/tables-nft}" "$out/tree/usr/sbin/$name"
    done
  done
  install -d -m 1777 "$out/tree/tmp"
  install -d "$out/tree"/{etc,proc,sys,dev,run,var}
  ln -s /run "$out/tree/var/run"
  printf 'root:x:0:0:root:/root:/sbin/nologin\n' >"$out/tree/etc/passwd"
  printf 'root:x:0:\n' >"$out/tree/etc/group"
  self_contained "$out/tree"
}

# self_contained TREE: its programs run with its own libraries alone.
self_contained() {
  local tree=$1 program
  for program in usr/sbin/iptables usr/sbin/iptables-legacy usr/sbin/ip6tables usr/sbin/conntrack usr/sbin/ipset usr/sbin/nft; do
    "$tree"/lib64/ld-linux-x86-64.so.2 --inhibit-cache --library-path "$tree/usr/lib/x86_64-linux-gnu" \
      --list "$tree/$program" | awk -v tree="$tree" '
        /=>/ && index($3, tree) != 1 { print "mirror: not in the tree: " $0 > "/dev/stderr"; bad = 1 }
        END { exit bad }' || die "$program needs a library that the tree lacks"
  done
}

# alone ROOT PROGRAM…: runs it with nothing but this tree, not even /proc.
alone() {
  if ((EUID == 0)); then
    chroot "$@"
  else
    local root=$1
    shift
    unshare --map-root-user --root="$root" -- "$@"
  fi
}

# The programs that a host's network needs, for any distribution. Upstream's are
# static. Debian has neither the static libraries nor, in every archive, the
# sources for that, so each program here is a small static one that starts
# Debian's with the loader and the libraries beside it. Names and places are
# upstream's.
deps_k3s_root() { printf 'debian-netfilter\ndebian-busybox\n'; }
recipe_k3s_root() {
  local version=$1 out=$2 tree bundle name family mode http applet
  tree=$(dir_of debian-netfilter)/tree
  bundle=root/bin/.bundle
  mkdir -p root/bin/aux root/etc "$bundle"/{bin,lib,xtables}
  gcc -static -Os -s -Wall -Werror -o run "$modules/bundle/run.c"
  install -m 0755 -- "$tree/lib64/ld-linux-x86-64.so.2" "$bundle/ld.so"
  for name in xtables-nft-multi xtables-legacy-multi nft conntrack ipset ethtool; do
    install -m 0755 -- "$tree/usr/sbin/$name" "$bundle/bin/$name"
    case $name in
    xtables-* | nft) install -m 0755 -- run "root/bin/aux/$name" ;;
    *) install -m 0755 -- run "root/bin/$name" ;;
    esac
  done
  install -m 0644 -- "$tree"/usr/lib/x86_64-linux-gnu/xtables/*.so "$bundle/xtables/"
  # Only the libraries that these programs load.
  for name in "$bundle"/bin/* "$bundle"/xtables/*.so; do
    "$bundle/ld.so" --inhibit-cache --library-path "$tree/usr/lib/x86_64-linux-gnu" --list "$name" |
      awk '/=>/ && $1 !~ /\/ld-linux/ { print $3 }'
  done | sort -u | while read -r name; do
    install -m 0644 -- "$name" "$bundle/lib/$(basename -- "$name")"
  done
  for family in iptables ip6tables; do
    for mode in nft legacy; do
      for name in "" -save -restore; do
        ln -s "xtables-$mode-multi" "root/bin/aux/$family-$mode$name"
      done
    done
    # Upstream's is a script that looks which of the two the host uses and then
    # replaces these links.
    for name in "" -save -restore; do
      ln -s xtables-nft-multi "root/bin/aux/$family$name"
    done
  done
  install -m 0755 -- "$(dir_of debian-busybox)/bin/busybox" root/bin/busybox
  for applet in sh cat ls cp mv rm; do
    ln -s busybox "root/bin/$applet"
  done

  for name in aux/iptables aux/ip6tables-legacy aux/nft conntrack ipset ethtool; do
    alone root "/bin/$name" --version >/dev/null || die "$name needs more than its own bundle"
  done
  [[ $(alone root /bin/aux/iptables-restore --help 2>&1) == *iptables-restore* ]] ||
    die "iptables-restore does not know its own name"

  http=$out/http/github.com/k3s-io/k3s-root/releases/download/v$version
  mkdir -p -- "$http" "$out/bin"
  tar -c --sort=name --mtime=@1767225600 --owner=0 --group=0 --numeric-owner --format=gnu \
    -C root ./bin ./etc >"$http/k3s-root-amd64.tar"
  tar -c --sort=name --mtime=@1767225600 --owner=0 --group=0 --numeric-owner --format=gnu \
    -C root --transform 's,^\./bin/aux,./bin,' ./bin/.bundle ./bin/aux >"$http/k3s-root-xtables-amd64.tar"
  (cd -- "$http" && sha256sum k3s-*amd64.tar >sha256sum-amd64.txt)
  cp -a root/bin/. "$out/bin/"
}

# ---------------------------------------------------------------- images

# The mirror's own programs.
recipe_push_tool() { go_build . "$2/bin" '' ./push; }

deps_serve_tool() { printf 'debian-registry\n'; }
recipe_serve_tool() { go_build . "$2/bin" '' ./serve; }

# pushed OUT: makes the images that standard input describes (see push/main.go)
# into OUT/registry and OUT/refs.
pushed() {
  "$(dir_of push-tool)/bin/push" -registry "$(dir_of debian-registry)/bin/docker-registry" \
    -storage "$1/registry" >"$1/refs"
}

# What distroless gives upstream's images.
recipe_image_base() {
  local tree=$2/tree
  install -d "$tree"/{etc,proc,sys,dev,run,var,home/nonroot}
  install -d -m 1777 "$tree/tmp" "$tree/var/tmp"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$tree/etc/passwd"
  printf 'root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n' >"$tree/etc/group"
  printf 'hosts: files dns\n' >"$tree/etc/nsswitch.conf"
  ln -s /run "$tree/var/run"
}

deps_kubernetes_images() { printf '%s\n' "kubernetes-v$1" push-tool debian-registry debian-netfilter image-base; }
recipe_kubernetes_images() {
  local version=$1 out=$2 name base bin comma=''
  bin=$(dir_of "kubernetes-v$version")/bin
  for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
    install -D -m 0755 -- "$bin/$name" "$PWD/$name/usr/local/bin/$name"
  done
  for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
    base=$(dir_of image-base)/tree
    if [[ $name == kube-proxy ]]; then
      base=$(dir_of debian-netfilter)/tree
    fi
    printf '%s{"repository": "registry.k8s.io/%s", "tags": ["v%s"], "platforms": [{
      "platform": "linux/amd64", "trees": ["%s", "%s"], "config": {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": ["/usr/local/bin/%s"], "WorkingDir": "/"}}]}' \
      "$comma" "$name" "$version" "$base" "$PWD/$name" "$name"
    comma=,
  done >images
  printf '[%s]' "$(<images)" | pushed "$out"
}

deps_etcd_image() {
  printf '%s\n' "etcd-v$1" push-tool debian-registry image-base
  # 3.5's server goes with the tools of 3.6: see recipe_etcd.
  if [[ $1 == 3.5.* ]]; then printf 'etcd-v3.6.5\n'; fi
}
recipe_etcd_image() {
  local version=$1 out=$2 name
  for name in etcdctl etcdutl etcd; do
    if [[ -e $(dir_of "etcd-v$version")/bin/$name ]]; then
      install -D -m 0755 -- "$(dir_of "etcd-v$version")/bin/$name" "$PWD/etcd/usr/local/bin/$name"
    else
      install -D -m 0755 -- "$(dir_of etcd-v3.6.5)/bin/$name" "$PWD/etcd/usr/local/bin/$name"
    fi
  done
  pushed "$out" <<JSON
[{"repository": "registry.k8s.io/etcd", "tags": ["$version-0"], "platforms": [{
  "platform": "linux/amd64", "trees": ["$(dir_of image-base)/tree", "$PWD/etcd"], "config": {
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"}}]}]
JSON
}

deps_coredns_image() { printf '%s\n' "coredns-v$1" push-tool debian-registry image-base; }
recipe_coredns_image() {
  local version=$1 out=$2
  install -D -m 0755 -- "$(dir_of "coredns-v$version")/bin/coredns" coredns/coredns
  pushed "$out" <<JSON
[{"repository": "registry.k8s.io/coredns/coredns", "tags": ["v$version"], "platforms": [{
  "platform": "linux/amd64", "trees": ["$(dir_of image-base)/tree", "$PWD/coredns"],
  "bindService": "/coredns", "config": {
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "User": "nonroot:nonroot", "Entrypoint": ["/coredns"], "WorkingDir": "/"}}]}]
JSON
}

# pause is the one image made as a multi-architecture index. The second platform
# is there so that leaving it out is exercised: nothing ever runs it.
deps_pause_image() { printf '%s\n' push-tool debian-registry; }
recipe_pause_image() {
  local version=$1 out=$2
  mkdir -p amd64 arm64
  gcc -static -Os -s -o amd64/pause "$modules/pause/pause.c"
  printf 'scripts/mirror makes no program for this platform\n' >arm64/pause
  chmod 0755 arm64/pause
  # 3.10 is what kubeadm 1.33 and containerd 2.1 ask for.
  pushed "$out" <<JSON
[{"repository": "registry.k8s.io/pause", "tags": ["$version", "3.10"], "index": true, "platforms": [
  {"platform": "linux/amd64", "trees": ["$PWD/amd64"], "config": {
    "User": "65535:65535", "Entrypoint": ["/pause"], "WorkingDir": "/"}},
  {"platform": "linux/arm64", "trees": ["$PWD/arm64"], "config": {
    "User": "65535:65535", "Entrypoint": ["/pause"], "WorkingDir": "/"}}]}]
JSON
}

deps_flannel_images() {
  printf '%s\n' "flannel-v$1" flannel-cni-plugin-v0.9.1 push-tool debian-registry debian-netfilter debian-busybox image-base
}
recipe_flannel_images() {
  local version=$1 out=$2 applet
  install -D -m 0755 -- "$(dir_of "flannel-v$version")/bin/flanneld" flannel/opt/bin/flanneld
  install -D -m 0755 -- "$(dir_of flannel-cni-plugin-v0.9.1)/bin/flannel" plugin/flannel
  # What the manifest's containers call.
  install -D -m 0755 -- "$(dir_of debian-busybox)/bin/busybox" shell/usr/bin/busybox
  for applet in sh cp mv sleep ls cat ip; do
    ln -s busybox "shell/usr/bin/$applet"
  done
  cp -a shell plugin-shell
  ln -s usr/bin plugin-shell/bin
  # The plugin's reference is the one that the manifest names. Its source can
  # only be had in the release before the plugin moved to flannel.
  pushed "$out" <<JSON
[{"repository": "ghcr.io/flannel-io/flannel", "tags": ["v$version"], "platforms": [{
   "platform": "linux/amd64", "trees": ["$(dir_of debian-netfilter)/tree", "$PWD/shell", "$PWD/flannel"], "config": {
     "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
     "Entrypoint": ["/opt/bin/flanneld"], "WorkingDir": "/"}}]},
 {"repository": "ghcr.io/flannel-io/flannel-cni-plugin", "tags": ["v1.9.1-flannel1"], "platforms": [{
   "platform": "linux/amd64", "trees": ["$(dir_of image-base)/tree", "$PWD/plugin-shell", "$PWD/plugin"], "config": {
     "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"}}]}]
JSON
}

deps_test_images() { printf '%s\n' push-tool debian-registry debian-busybox image-base; }
recipe_test_images() {
  local out=$2 applet
  install -D -m 0755 -- "$(dir_of debian-busybox)/bin/busybox" busybox/bin/busybox
  while read -r applet; do
    [[ -e busybox/bin/$applet ]] || ln -s busybox "busybox/bin/$applet"
  done < <(busybox/bin/busybox --list)
  pushed "$out" <<JSON
[{"repository": "docker.io/library/busybox", "tags": ["1.37"], "platforms": [{
   "platform": "linux/amd64", "trees": ["$(dir_of image-base)/tree", "$PWD/busybox"], "config": {
     "Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/"}}]},
 {"repository": "docker.io/library/schema2", "tags": ["1"], "docker": true, "index": true, "platforms": [
   {"platform": "linux/amd64", "trees": ["$(dir_of image-base)/tree", "$PWD/busybox"], "config": {
     "Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/"}},
   {"platform": "linux/arm64", "trees": ["$(dir_of image-base)/tree"], "config": {"WorkingDir": "/"}}]}]
JSON
}
