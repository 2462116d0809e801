//! The systemd units that every host gets. They are part of the binary, because
//! they and the binary that they start belong together.

/// A unit file of the node service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unit {
    /// The unit's name, such as `chasi-node.service`.
    pub name: &'static str,
    /// Where the file belongs on the host.
    pub path: &'static str,
    /// What it says.
    pub content: &'static str,
}

macro_rules! units {
    ($($name:literal),* $(,)?) => {
        [$(Unit {
            name: $name,
            path: concat!("/etc/systemd/system/", $name),
            content: include_str!(concat!("../../rootfs/etc/systemd/system/", $name)),
        }),*]
    };
}

/// Every unit: the boot step, the sockets, the service. Those with an `[Install]`
/// section are to be enabled; the others come with them.
pub const UNITS: [Unit; 7] = units![
    "chasi-boot.service",
    "chasi-registry.socket",
    "chasi-registry-ipv6.socket",
    "chasi-balancer.socket",
    "chasi-balancer-ipv6.socket",
    "chasi-status.socket",
    "chasi-node.service",
];

/// The boot step, which completes or undoes an interrupted switch before the
/// container runtime and kubelet start.
pub const BOOT: &str = "chasi-boot.service";

/// The node service.
pub const SERVICE: &str = "chasi-node.service";

/// The path of the binary that the units start.
pub const BINARY: &str = "/var/lib/chasi/bin/chasi";

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> &'static str {
        UNITS.iter().find(|unit| unit.name == name).unwrap().content
    }

    #[test]
    fn every_file_is_a_unit_that_starts_with_the_host_or_with_another() {
        for unit in UNITS {
            assert!(unit.content.starts_with("[Unit]\n"), "{}", unit.name);
            let enabled = unit.content.contains("\n[Install]\n");
            assert_eq!(
                enabled,
                !unit.content.contains("\nPartOf="),
                "{}",
                unit.name
            );
        }
        let files = std::fs::read_dir(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/rootfs/etc/systemd/system"
        ))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("chasi-"))
        .count();
        assert_eq!(files, UNITS.len());
    }

    #[test]
    fn the_service_gets_every_socket_and_each_socket_a_name_it_knows() {
        use crate::node::activation::name;
        for socket in UNITS.iter().filter(|unit| unit.name.ends_with(".socket")) {
            assert!(unit(SERVICE).contains(socket.name), "{}", socket.name);
            assert!(
                socket.content.contains("\nService=chasi-node.service\n"),
                "{}",
                socket.name
            );
            let named = [name::REGISTRY, name::BALANCER, name::STATUS]
                .iter()
                .any(|name| {
                    socket
                        .content
                        .contains(&format!("\nFileDescriptorName={name}\n"))
                });
            assert!(named, "{}", socket.name);
        }
    }

    #[test]
    fn services_start_the_hosts_binary() {
        assert!(unit(SERVICE).contains(&format!("\nExecStart={BINARY} node-service\n")));
        assert!(unit(BOOT).contains(&format!("\nExecStart={BINARY} boot\n")));
    }
}
