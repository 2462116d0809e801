//! A simulated network drives the schedule: every host and the controller have a
//! link of the same bandwidth in either direction, shared evenly by what uses it.

use super::*;

/// What can go wrong in a simulation.
#[derive(Default)]
struct Trouble {
    /// Hosts that nobody can fetch from.
    closed: BTreeSet<usize>,
    /// Hosts that give something else.
    forgers: BTreeSet<usize>,
    /// Hosts that are gone after they have got this many pieces.
    leaving: Vec<(usize, usize)>,
    /// Hosts whose link has a tenth of the bandwidth.
    slow: BTreeSet<usize>,
}

/// Whether every host that takes part has everything.
fn is_done(schedule: &Schedule) -> bool {
    schedule
        .hosts
        .iter()
        .all(|host| !host.takes_part || host.lacks.is_empty())
}

struct Outcome {
    /// In units of the time that all pieces take over one link.
    time: f64,
    /// When each host had everything.
    complete: Vec<Option<f64>>,
    /// How many pieces the controller sent.
    sent: usize,
}

/// How long it takes until a transfer that was decided on moves bytes, in units of
/// one piece's time: the round trip of the controller's request.
const LATENCY: f64 = 0.05;

fn simulate(hosts: usize, pieces: usize, trouble: &Trouble) -> Outcome {
    let all: BTreeSet<_> = (0..pieces).collect();
    let mut schedule = Schedule::new(pieces, (0..hosts).map(|_| all.clone()));
    let mut flows: Vec<(Transfer, f64, f64)> = Vec::new();
    let (mut now, mut sent) = (0.0, 0);
    let mut complete = vec![None; hosts];
    let mut got = vec![0; hosts];
    let width = |host: usize| {
        if trouble.slow.contains(&host) {
            0.1
        } else {
            1.0
        }
    };
    loop {
        for transfer in schedule.begin() {
            sent += usize::from(transfer.from == Source::Controller);
            flows.push((transfer, LATENCY, 1.0));
        }
        if is_done(&schedule) {
            break;
        }
        assert!(
            !flows.is_empty(),
            "nothing is under way and {:?} lack something",
            complete.iter().filter(|at| at.is_none()).count()
        );
        let mut ups = std::collections::BTreeMap::new();
        let mut downs = std::collections::BTreeMap::new();
        for (transfer, wait, _) in &flows {
            if *wait <= 0.0 {
                *ups.entry(transfer.from).or_insert(0.0) += 1.0;
                *downs.entry(transfer.to).or_insert(0.0) += 1.0;
            }
        }
        let rate = |transfer: &Transfer| {
            let up = match transfer.from {
                Source::Controller => 1.0,
                Source::Host(host) => width(host),
            };
            f64::min(
                up / ups[&transfer.from],
                width(transfer.to) / downs[&transfer.to],
            )
        };
        let step = flows
            .iter()
            .map(|(transfer, wait, left)| {
                if *wait > 0.0 {
                    *wait
                } else {
                    left / rate(transfer)
                }
            })
            .fold(f64::INFINITY, f64::min);
        now += step;
        let mut ended = Vec::new();
        flows.retain_mut(|(transfer, wait, left)| {
            if *wait > 0.0 {
                *wait = if *wait <= step + 1e-9 {
                    0.0
                } else {
                    *wait - step
                };
                return true;
            }
            *left -= rate(transfer) * step;
            if *left < 1e-9 {
                ended.push(*transfer);
            }
            *left >= 1e-9
        });
        for transfer in ended {
            match transfer.from {
                Source::Host(from) if trouble.closed.contains(&from) => {
                    schedule.failed(transfer, Fault::Source)
                }
                Source::Host(from) if trouble.forgers.contains(&from) => {
                    schedule.failed(transfer, Fault::Forged)
                }
                _ => {
                    schedule.arrived(transfer);
                    got[transfer.to] += 1;
                    if schedule.is_complete(transfer.to) {
                        complete[transfer.to].get_or_insert(now / pieces as f64);
                    }
                }
            }
            if trouble.leaving.contains(&(transfer.to, got[transfer.to])) {
                schedule.lost(transfer.to);
                // A transfer that was under way to it or from it breaks off.
                flows.retain(|(flow, _, _)| {
                    let from_it = flow.from == Source::Host(transfer.to);
                    if from_it {
                        schedule.failed(*flow, Fault::Source);
                    }
                    !from_it && flow.to != transfer.to
                });
            }
        }
    }
    Outcome {
        time: now / pieces as f64,
        complete,
        sent,
    }
}

#[test]
fn one_host_gets_everything_from_the_controller() {
    let outcome = simulate(1, 50, &Trouble::default());
    assert_eq!(outcome.sent, 50);
    assert!(outcome.time < 1.1, "{}", outcome.time);
}

#[test]
fn a_hundred_hosts_take_less_than_one_and_a_half_times_as_long_as_one() {
    for pieces in [100, 150, 256] {
        let outcome = simulate(100, pieces, &Trouble::default());
        assert_eq!(outcome.sent, pieces, "the controller sends each byte once");
        assert!(outcome.time < 1.5, "{pieces} pieces: {}", outcome.time);
    }
}

#[test]
fn four_hosts_as_well() {
    let outcome = simulate(4, 100, &Trouble::default());
    assert_eq!(outcome.sent, 100);
    assert!(outcome.time < 1.2, "{}", outcome.time);
}

#[test]
fn hosts_that_leave_do_not_hold_up_the_others() {
    let leaving = (0..20).map(|number| (number * 5, 1 + number * 4)).collect();
    let outcome = simulate(
        100,
        100,
        &Trouble {
            leaving,
            ..Trouble::default()
        },
    );
    assert_eq!(
        outcome.complete.iter().filter(|at| at.is_some()).count(),
        80
    );
    assert!(outcome.time < 1.6, "{}", outcome.time);
    assert!(outcome.sent < 140, "{}", outcome.sent);
}

#[test]
fn hosts_that_cannot_be_fetched_from_are_avoided() {
    let closed = (0..10).collect();
    let outcome = simulate(
        100,
        100,
        &Trouble {
            closed,
            ..Trouble::default()
        },
    );
    assert!(outcome.complete.iter().all(Option::is_some));
    assert!(outcome.time < 1.8, "{}", outcome.time);
}

#[test]
fn when_no_host_reaches_another_the_controller_sends_everything() {
    for hosts in [2, 3, 5, 10] {
        let closed = (0..hosts).collect();
        let outcome = simulate(
            hosts,
            40,
            &Trouble {
                closed,
                ..Trouble::default()
            },
        );
        assert!(outcome.complete.iter().all(Option::is_some));
        assert_eq!(outcome.sent, hosts * 40);
    }
}

#[test]
fn a_forger_is_found_out_once() {
    let forgers = BTreeSet::from([3]);
    let outcome = simulate(
        20,
        60,
        &Trouble {
            forgers,
            ..Trouble::default()
        },
    );
    assert!(outcome.complete.iter().all(Option::is_some));
    assert!(outcome.time < 1.5, "{}", outcome.time);
}

#[test]
fn slow_hosts_slow_down_themselves() {
    let slow = BTreeSet::from([1, 50]);
    let outcome = simulate(
        100,
        100,
        &Trouble {
            slow: slow.clone(),
            ..Trouble::default()
        },
    );
    let fast = (0..100)
        .filter(|host| !slow.contains(host))
        .filter_map(|host| outcome.complete[host])
        .fold(0.0, f64::max);
    assert!(fast < 2.0, "{fast}");
}

#[test]
fn what_hosts_have_already_is_not_sent_by_the_controller() {
    let lacking = [BTreeSet::new(), BTreeSet::from([0, 1]), BTreeSet::from([1])];
    let mut schedule = Schedule::new(2, lacking);
    let begun = schedule.begin();
    assert_eq!(begun.len(), 3);
    assert!(begun.iter().all(|transfer| transfer.from == Source::Host(0)
        || (transfer.from, transfer.piece) == (Source::Host(2), 0)));
    for transfer in begun {
        schedule.arrived(transfer);
    }
    assert!(is_done(&schedule));
}

#[test]
fn late_news_of_a_lost_host_change_nothing() {
    let mut schedule = Schedule::new(1, [BTreeSet::from([0]), BTreeSet::from([0])]);
    let begun = schedule.begin();
    assert_eq!(begun.len(), 1);
    schedule.lost(begun[0].to);
    schedule.arrived(begun[0]);
    schedule.failed(begun[0], Fault::Source);
    let again = schedule.begin();
    assert_eq!((again.len(), again[0].from), (1, Source::Controller));
    assert_ne!(again[0].to, begun[0].to);
}
