//! Which fields kubeadm's documents have, and which of them chasi decides.
//!
//! The fields are those of Kubernetes v1.33 and v1.34: `kubeadm/v1beta4/types.go`
//! (and of older versions what people still have), `kubelet/config/v1beta1/types.go`,
//! `kube-proxy/config/v1alpha1/types.go`.

use super::kubeadm::Kind;

/// What is said of a field.
pub(super) struct Rule {
    /// Its path.
    pub path: &'static [&'static str],
    /// Whether it may be there.
    pub verdict: Verdict,
    /// Why, and what to do; a remedy without a final period.
    pub why: &'static str,
}

/// Whether a field may be there.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    /// Only with one of these values, which chasi gives it anyway.
    Only(&'static [&'static str]),
    /// Never.
    Never,
    /// It may, and nothing comes of it.
    Unused,
}

const fn only(
    path: &'static [&'static str],
    allowed: &'static [&'static str],
    why: &'static str,
) -> Rule {
    Rule {
        path,
        verdict: Verdict::Only(allowed),
        why,
    }
}

const fn never(path: &'static [&'static str], why: &'static str) -> Rule {
    Rule {
        path,
        verdict: Verdict::Never,
        why,
    }
}

const fn unused(path: &'static [&'static str], why: &'static str) -> Rule {
    Rule {
        path,
        verdict: Verdict::Unused,
        why,
    }
}

/// Arguments of components that follow from other fields.
pub(super) const API_SERVER_ARGUMENTS: [&str; 7] = [
    "advertise-address",
    "client-ca-file",
    "etcd-servers",
    "feature-gates",
    "secure-port",
    "service-cluster-ip-range",
    "tls-cert-file",
];
pub(super) const CONTROLLER_ARGUMENTS: [&str; 8] = [
    "allocate-node-cidrs",
    "cluster-cidr",
    "cluster-name",
    "feature-gates",
    "node-cidr-mask-size",
    "node-cidr-mask-size-ipv4",
    "node-cidr-mask-size-ipv6",
    "service-cluster-ip-range",
];
pub(super) const SCHEDULER_ARGUMENTS: [&str; 1] = ["feature-gates"];
pub(super) const ETCD_ARGUMENTS: [&str; 10] = [
    "advertise-client-urls",
    "cert-file",
    "data-dir",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "listen-client-urls",
    "listen-peer-urls",
    "name",
    "peer-cert-file",
];

const SOCKETS: [&str; 3] = [
    "unix:///run/containerd/containerd.sock",
    "unix:///var/run/containerd/containerd.sock",
    "/run/containerd/containerd.sock",
];

const CLUSTER: [Rule; 15] = [
    never(
        &["kubernetesVersion"],
        "the cluster image has the version; remove it",
    ),
    never(
        &["controlPlaneEndpoint"],
        "hosts reach the API servers through the balancer on each of them; for an address outside, write `controlPlaneEndpoint` in the cluster's `spec`",
    ),
    only(
        &["certificatesDir"],
        &["/etc/kubernetes/pki"],
        "the place is fixed",
    ),
    only(
        &["imageRepository"],
        &["registry.k8s.io"],
        "images are served on each host under the references that the cluster image has",
    ),
    never(
        &["etcd", "external"],
        "etcd runs on the control planes; remove it",
    ),
    only(
        &["etcd", "local", "dataDir"],
        &["/var/lib/etcd"],
        "the place is fixed",
    ),
    never(
        &["etcd", "local", "imageRepository"],
        "the cluster image has etcd; remove it",
    ),
    never(
        &["etcd", "local", "imageTag"],
        "the cluster image has etcd; remove it",
    ),
    never(
        &["dns", "imageRepository"],
        "the cluster image has CoreDNS; remove it",
    ),
    never(
        &["dns", "imageTag"],
        "the cluster image has CoreDNS; remove it",
    ),
    only(&["dns", "type"], &["CoreDNS"], "there is no other"),
    only(
        &["dns", "disabled"],
        &["false"],
        "chasi always installs CoreDNS",
    ),
    only(
        &["proxy", "disabled"],
        &["false"],
        "chasi always installs kube-proxy",
    ),
    only(
        &["useHyperKubeImage"],
        &["false"],
        "there is no such image any more",
    ),
    unused(
        &["apiServer", "timeoutForControlPlane"],
        "chasi has its own deadlines",
    ),
];

const INIT: [Rule; 13] = [
    never(
        &["bootstrapTokens"],
        "chasi joins nodes without tokens; remove them",
    ),
    never(
        &["certificateKey"],
        "chasi carries the certificates itself; remove it",
    ),
    never(
        &["skipPhases"],
        "chasi goes through kubeadm's phases itself; remove it",
    ),
    never(
        &["patches"],
        "write what you want to change as fields; remove it",
    ),
    only(&["dryRun"], &["false"], "use `chasi run --dry-run`"),
    unused(&["timeouts"], "chasi has its own deadlines"),
    never(
        &["localAPIEndpoint", "advertiseAddress"],
        "it is the first of a host's `nodeIPs`; remove it",
    ),
    only(
        &["localAPIEndpoint", "bindPort"],
        &["6443"],
        "the port is fixed",
    ),
    never(
        &["nodeRegistration", "name"],
        "it is the host's `name`; remove it",
    ),
    only(
        &["nodeRegistration", "criSocket"],
        &SOCKETS,
        "the runtime comes with the image",
    ),
    never(
        &["nodeRegistration", "taints"],
        "write the host's `taints`; a control plane with the role `worker` too has none",
    ),
    never(
        &["nodeRegistration", "kubeletExtraArgs"],
        "write a `KubeletConfiguration`, or the host's `labels` and `taints`",
    ),
    unused(
        &["nodeRegistration", "ignorePreflightErrors"],
        "chasi has its own checks",
    ),
];

const JOIN: [Rule; 13] = [
    never(
        &["discovery"],
        "chasi joins nodes without tokens; remove it",
    ),
    never(
        &["skipPhases"],
        "chasi goes through kubeadm's phases itself; remove it",
    ),
    never(
        &["patches"],
        "write what you want to change as fields; remove it",
    ),
    only(&["dryRun"], &["false"], "use `chasi run --dry-run`"),
    unused(&["timeouts"], "chasi has its own deadlines"),
    only(
        &["caCertPath"],
        &["/etc/kubernetes/pki/ca.crt"],
        "the place is fixed",
    ),
    never(
        &["controlPlane", "certificateKey"],
        "chasi carries the certificates itself; remove it",
    ),
    never(
        &["controlPlane", "localAPIEndpoint", "advertiseAddress"],
        "it is the first of a host's `nodeIPs`; remove it",
    ),
    only(
        &["controlPlane", "localAPIEndpoint", "bindPort"],
        &["6443"],
        "the port is fixed",
    ),
    never(
        &["nodeRegistration", "name"],
        "it is the host's `name`; remove it",
    ),
    only(
        &["nodeRegistration", "criSocket"],
        &SOCKETS,
        "the runtime comes with the image",
    ),
    never(&["nodeRegistration", "taints"], "write the host's `taints`"),
    never(
        &["nodeRegistration", "kubeletExtraArgs"],
        "write a `KubeletConfiguration`, or the host's `labels` and `taints`",
    ),
];

const KUBELET: [Rule; 14] = [
    never(
        &["clusterDNS"],
        "it is the tenth address of the service network; remove it",
    ),
    only(
        &["staticPodPath"],
        &["/etc/kubernetes/manifests"],
        "the place is fixed",
    ),
    only(
        &["containerRuntimeEndpoint"],
        &SOCKETS,
        "the runtime comes with the image",
    ),
    only(&["cgroupDriver"], &["systemd"], "it follows from the host"),
    only(
        &["authentication", "x509", "clientCAFile"],
        &["/etc/kubernetes/pki/ca.crt"],
        "the place is fixed",
    ),
    only(
        &["authentication", "anonymous", "enabled"],
        &["false"],
        "kubelets ask who calls",
    ),
    only(
        &["authentication", "webhook", "enabled"],
        &["true"],
        "kubelets ask who calls",
    ),
    only(
        &["authorization", "mode"],
        &["Webhook"],
        "kubelets ask what the caller may",
    ),
    only(
        &["rotateCertificates"],
        &["true"],
        "kubelets renew their certificates",
    ),
    only(
        &["serverTLSBootstrap"],
        &["false"],
        "nobody would approve the requests that it makes",
    ),
    only(&["registerNode"], &["true"], "there would be no node"),
    never(
        &["registerWithTaints"],
        "write the host's `taints`; a control plane with the role `worker` too has none",
    ),
    never(&["podCIDR"], "it comes from the pod network; remove it"),
    only(&["port"], &["10250"], "the port is fixed"),
];

const KUBE_PROXY: [Rule; 2] = [
    only(
        &["clientConnection", "kubeconfig"],
        &["/var/lib/kube-proxy/kubeconfig.conf"],
        "the place is fixed",
    ),
    never(&["hostnameOverride"], "it is the host's `name`; remove it"),
];

/// What is said of a kind's fields.
pub(super) fn of(kind: Kind) -> &'static [Rule] {
    match kind {
        Kind::Cluster => &CLUSTER,
        Kind::Init => &INIT,
        Kind::Join => &JOIN,
        Kind::Kubelet => &KUBELET,
        Kind::KubeProxy => &KUBE_PROXY,
    }
}

/// The fields that a kind has.
pub(super) fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Cluster => &CLUSTER_FIELDS,
        Kind::Init => &INIT_FIELDS,
        Kind::Join => &JOIN_FIELDS,
        Kind::Kubelet => &KUBELET_FIELDS,
        Kind::KubeProxy => &KUBE_PROXY_FIELDS,
    }
}

#[rustfmt::skip]
const CLUSTER_FIELDS: [&str; 17] = [
    "apiServer", "caCertificateValidityPeriod", "certificateValidityPeriod", "certificatesDir",
    "clusterName", "controlPlaneEndpoint", "controllerManager", "dns", "encryptionAlgorithm",
    "etcd", "featureGates", "imageRepository", "kubernetesVersion", "networking", "proxy",
    "scheduler", "useHyperKubeImage",
];

#[rustfmt::skip]
const INIT_FIELDS: [&str; 8] = [
    "bootstrapTokens", "certificateKey", "dryRun", "localAPIEndpoint", "nodeRegistration",
    "patches", "skipPhases", "timeouts",
];

#[rustfmt::skip]
const JOIN_FIELDS: [&str; 8] = [
    "caCertPath", "controlPlane", "discovery", "dryRun", "nodeRegistration", "patches",
    "skipPhases", "timeouts",
];

#[rustfmt::skip]
const KUBELET_FIELDS: [&str; 123] = [
    "address", "allowedUnsafeSysctls", "authentication", "authorization", "cgroupDriver",
    "cgroupRoot", "cgroupsPerQOS", "clusterDNS", "clusterDomain",
    "configMapAndSecretChangeDetectionStrategy", "containerLogMaxFiles", "containerLogMaxSize",
    "containerLogMaxWorkers", "containerLogMonitorInterval", "containerRuntimeEndpoint",
    "contentType", "cpuCFSQuota", "cpuCFSQuotaPeriod", "cpuManagerPolicy",
    "cpuManagerPolicyOptions", "cpuManagerReconcilePeriod", "crashLoopBackOff",
    "enableContentionProfiling", "enableControllerAttachDetach", "enableDebugFlagsHandler",
    "enableDebuggingHandlers", "enableProfilingHandler", "enableServer", "enableSystemLogHandler",
    "enableSystemLogQuery", "enforceNodeAllocatable", "eventBurst", "eventRecordQPS",
    "evictionHard", "evictionMaxPodGracePeriod", "evictionMinimumReclaim",
    "evictionPressureTransitionPeriod", "evictionSoft", "evictionSoftGracePeriod", "failCgroupV1",
    "failSwapOn", "featureGates", "fileCheckFrequency", "hairpinMode", "healthzBindAddress",
    "healthzPort", "httpCheckFrequency", "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent", "imageMaximumGCAge", "imageMinimumGCAge",
    "imagePullCredentialsVerificationPolicy", "imageServiceEndpoint", "iptablesDropBit",
    "iptablesMasqueradeBit", "kernelMemcgNotification", "kubeAPIBurst", "kubeAPIQPS",
    "kubeReserved", "kubeReservedCgroup", "kubeletCgroups", "localStorageCapacityIsolation",
    "logging", "makeIPTablesUtilChains", "maxOpenFiles", "maxParallelImagePulls", "maxPods",
    "memoryManagerPolicy", "memorySwap", "memoryThrottlingFactor", "mergeDefaultEvictionSettings",
    "nodeLeaseDurationSeconds", "nodeStatusMaxImages", "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency", "oomScoreAdj", "podCIDR", "podLogsDir", "podPidsLimit",
    "podsPerCore", "port", "preloadedImagesVerificationAllowlist", "protectKernelDefaults",
    "providerID", "qosReserved", "readOnlyPort", "registerNode", "registerWithTaints",
    "registryBurst", "registryPullQPS", "reservedMemory", "reservedSystemCPUs", "resolvConf",
    "rotateCertificates", "runOnce", "runtimeRequestTimeout", "seccompDefault",
    "serializeImagePulls", "serverTLSBootstrap", "showHiddenMetricsForVersion",
    "shutdownGracePeriod", "shutdownGracePeriodByPodPriority", "shutdownGracePeriodCriticalPods",
    "singleProcessOOMKill", "staticPodPath", "staticPodURL", "staticPodURLHeader",
    "streamingConnectionIdleTimeout", "syncFrequency", "systemCgroups", "systemReserved",
    "systemReservedCgroup", "tlsCertFile", "tlsCipherSuites", "tlsMinVersion",
    "tlsPrivateKeyFile", "topologyManagerPolicy", "topologyManagerPolicyOptions",
    "topologyManagerScope", "tracing", "userNamespaces", "volumePluginDir",
    "volumeStatsAggPeriod",
];

#[rustfmt::skip]
const KUBE_PROXY_FIELDS: [&str; 24] = [
    "bindAddress", "bindAddressHardFail", "clientConnection", "clusterCIDR", "configSyncPeriod",
    "conntrack", "detectLocal", "detectLocalMode", "enableProfiling", "featureGates",
    "healthzBindAddress", "hostnameOverride", "iptables", "ipvs", "logging", "metricsBindAddress",
    "mode", "nftables", "nodePortAddresses", "oomScoreAdj", "portRange",
    "showHiddenMetricsForVersion", "windowsRunAsService", "winkernel",
];
