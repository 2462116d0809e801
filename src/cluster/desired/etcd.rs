//! How each control plane's etcd starts for the first time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Known;
use crate::distro::{self, EtcdMember, EtcdStart, EtcdState, Role};
use crate::oci::image::Rootfs;

/// How each control plane's etcd starts. Those of a cluster that does not exist yet
/// start together; one that comes later joins those that are there, of which etcd
/// itself knows best. How a member started is part of its generation and stays as it
/// was.
pub(super) fn etcd_starts(
    nodes: &[(&Known, &Rootfs, distro::Host)],
    members: &[EtcdMember],
) -> BTreeMap<String, EtcdStart> {
    let control_planes: Vec<Candidate> = nodes
        .iter()
        .filter(|(_, _, node)| node.role == Role::ControlPlane)
        .map(|(known, _, node)| Candidate {
            name: node.name.clone(),
            address: node.node_ip(),
            started: known.etcd.clone(),
        })
        .collect();
    starts(&control_planes, members)
}

/// A control plane, and how its etcd started, when it did.
struct Candidate {
    name: String,
    address: IpAddr,
    started: Option<EtcdStart>,
}

fn starts(candidates: &[Candidate], members: &[EtcdMember]) -> BTreeMap<String, EtcdStart> {
    let own = |candidate: &Candidate| (candidate.name.clone(), candidate.address);
    let known = || candidates.iter().filter_map(|one| one.started.as_ref());
    // Founders may all be gone by now.
    let founding = known()
        .find(|start| start.state == EtcdState::New)
        .cloned()
        .or_else(|| {
            let nobody = known().next().is_none() && members.is_empty();
            nobody.then(|| EtcdStart {
                members: candidates.iter().map(own).collect(),
                state: EtcdState::New,
            })
        });
    let founders: &[(String, IpAddr)] = founding.as_ref().map_or(&[], |start| &start.members);
    let mut present: Vec<(String, IpAddr)> = match members {
        [] => founders.to_vec(),
        members => members
            .iter()
            .filter_map(|member| Some((member.name.clone(), member.address?)))
            .collect(),
    };
    if members.is_empty() {
        for one in known().flat_map(|start| &start.members) {
            if !present.contains(one) {
                present.push(one.clone());
            }
        }
    }
    let mut starts = BTreeMap::new();
    for candidate in candidates {
        let listed = members
            .iter()
            .find(|member| member.address == Some(candidate.address));
        // A founder that has never run is expected by the others as they know it.
        let founds = founders.contains(&own(candidate))
            && match listed {
                Some(member) => !member.started && !member.learner,
                None => members.is_empty(),
            };
        let start = match (&candidate.started, &founding) {
            (Some(start), _) => start.clone(),
            (None, Some(founding)) if founds => founding.clone(),
            _ => {
                // etcd does not know the names of those that have not started.
                present.retain(|(_, address)| *address != candidate.address);
                present.push(own(candidate));
                EtcdStart {
                    members: present.clone(),
                    state: EtcdState::Existing,
                }
            }
        };
        starts.insert(candidate.name.clone(), start);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn start(state: EtcdState, numbers: &[u8]) -> EtcdStart {
        EtcdStart {
            members: numbers
                .iter()
                .map(|number| (format!("m{number}"), address(*number)))
                .collect(),
            state,
        }
    }

    fn candidate(number: u8, started: Option<EtcdStart>) -> Candidate {
        Candidate {
            name: format!("m{number}"),
            address: address(number),
            started,
        }
    }

    fn member(number: u8, started: bool, learner: bool) -> EtcdMember {
        EtcdMember {
            id: number.to_string(),
            name: match started {
                true => format!("m{number}"),
                false => String::new(),
            },
            address: Some(address(number)),
            started,
            learner,
            healthy: started,
        }
    }

    /// `m1,m2 new` and the like, of the last candidate.
    fn last(candidates: &[Candidate], members: &[EtcdMember]) -> String {
        let starts = starts(candidates, members);
        let start = &starts[&candidates.last().unwrap().name];
        let names: Vec<&str> = start
            .members
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        format!("{} {:?}", names.join(","), start.state)
    }

    #[test]
    fn each_member_starts_as_the_others_expect() {
        use EtcdState::{Existing, New};
        let founder = |numbers: &[u8]| Some(start(New, numbers));
        let (up, waiting) = (
            |number| member(number, true, false),
            |number| member(number, false, true),
        );
        for (what, candidates, members, expected) in [
            (
                "a fresh cluster",
                vec![candidate(1, None), candidate(2, None)],
                vec![],
                "m1,m2 New",
            ),
            (
                "the second founder, after a crash",
                vec![candidate(1, founder(&[1, 2])), candidate(2, None)],
                vec![],
                "m1,m2 New",
            ),
            (
                "one that joins",
                vec![candidate(1, founder(&[1])), candidate(2, None)],
                vec![up(1)],
                "m1,m2 Existing",
            ),
            (
                "the second that joins",
                vec![
                    candidate(1, founder(&[1])),
                    candidate(2, None),
                    candidate(3, None),
                ],
                vec![up(1)],
                "m1,m2,m3 Existing",
            ),
            (
                "one that was added and has not started",
                vec![candidate(1, founder(&[1])), candidate(2, None)],
                vec![up(1), waiting(2)],
                "m1,m2 Existing",
            ),
            (
                "a founder that comes back with an empty disk",
                vec![candidate(1, founder(&[1, 2])), candidate(2, None)],
                vec![up(1), up(2)],
                "m1,m2 Existing",
            ),
            (
                "a founder that was deleted and is added again",
                vec![candidate(1, founder(&[1, 2, 3])), candidate(2, None)],
                vec![up(1), up(3)],
                "m1,m3,m2 Existing",
            ),
            (
                "one that joins where no founder is left",
                vec![
                    candidate(5, Some(start(Existing, &[1, 5]))),
                    candidate(6, None),
                ],
                vec![up(5)],
                "m5,m6 Existing",
            ),
            (
                "the same while etcd does not answer",
                vec![
                    candidate(5, Some(start(Existing, &[1, 5]))),
                    candidate(6, None),
                ],
                vec![],
                "m1,m5,m6 Existing",
            ),
            (
                "one that has started keeps how it did",
                vec![
                    candidate(1, None),
                    candidate(5, Some(start(Existing, &[1, 5]))),
                ],
                vec![up(1), up(5)],
                "m1,m5 Existing",
            ),
        ] {
            assert_eq!(last(&candidates, &members), expected, "{what}");
        }
    }
}
