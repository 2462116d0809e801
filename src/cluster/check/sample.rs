//! Between which hosts the ways are measured: all of them in a small cluster, and a
//! bounded choice in a large one, always the same.

/// Up to so many hosts every way is measured.
pub(super) const FEW: usize = 16;

/// The rule, for documentation and reports.
pub(super) const RULE: &str = "up to 16 hosts every way between two of them; beyond, every way \
     from and to a control plane, and from each worker to those that come 1, 2, 4, 8, 16, 32, 64 \
     and 128 places after it in the Clusterfile";

/// The farthest that a worker looks in a large cluster: 8 ways for each.
const FARTHEST: usize = 128;

/// The ways to measure, from and to, as numbers of hosts. `control_planes` says of each
/// host whether it is one. Grows with the number of hosts, and not with its square.
pub(super) fn ways(control_planes: &[bool]) -> Vec<(usize, usize)> {
    let count = control_planes.len();
    let workers: Vec<usize> = (0..count).filter(|host| !control_planes[*host]).collect();
    let mut ways = Vec::new();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            if count <= FEW || control_planes[from] || control_planes[to] {
                ways.push((from, to));
            }
        }
    }
    if count > FEW {
        for (place, from) in workers.iter().enumerate() {
            let distances = std::iter::successors(Some(1), |far| Some(far * 2))
                .take_while(|far| *far <= FARTHEST && *far < workers.len());
            let reached = distances.map(|far| workers[(place + far) % workers.len()]);
            ways.extend(reached.map(|to| (*from, to)));
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cluster(control_planes: usize, workers: usize) -> Vec<bool> {
        [vec![true; control_planes], vec![false; workers]].concat()
    }

    #[test]
    fn a_small_cluster_is_measured_whole() {
        assert_eq!(ways(&cluster(1, 0)), []);
        assert_eq!(ways(&cluster(3, 13)).len(), 16 * 15);
    }

    #[test]
    fn a_large_cluster_is_bounded_and_every_host_takes_part() {
        for (control_planes, workers) in [(1, 16), (3, 97), (5, 495)] {
            let hosts = cluster(control_planes, workers);
            let found = ways(&hosts);
            let unique: BTreeSet<_> = found.iter().collect();
            assert_eq!(unique.len(), found.len(), "none twice");
            let most = hosts.len() * (2 * control_planes + 8);
            assert!(found.len() <= most, "{} of {most}", found.len());
            for host in 0..hosts.len() {
                let from = found.iter().filter(|(from, _)| *from == host).count();
                let to = found.iter().filter(|(_, to)| *to == host).count();
                assert!(from > control_planes && to > control_planes, "{host}");
                for other in 0..control_planes {
                    assert!(host == other || unique.contains(&(host, other)));
                    assert!(host == other || unique.contains(&(other, host)));
                }
            }
        }
        assert_eq!(ways(&cluster(3, 97)).len(), 588 + 97 * 7);
    }
}
