//! The plan of the supervisor: events in, orders out.

use super::*;
use crate::config::WORKERS_MAX;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

const LIMITS: Limits = Limits { start: Duration::from_secs(120), stop: Duration::from_secs(30) };

/// A roster with a clock, whose orders are written down in short: `start 1@0` is a start of worker 1 in slot 0.
struct Service {
    roster: Roster,
    now: Instant,
    said: Vec<String>,
    /// The old workers that the last reload waits for.
    leaving: Vec<usize>,
}

impl Service {
    /// Starts a service, without any worker being ready.
    fn start(workers: usize) -> (Self, Vec<String>) {
        let mut service =
            Self { roster: Roster::new(workers, LIMITS), now: Instant::now(), said: Vec::new(), leaving: Vec::new() };
        let orders = service.take(Event::Time);
        (service, orders)
    }

    /// Starts a service whose workers serve.
    fn serving(workers: usize) -> Self {
        let (mut service, _) = Self::start(workers);
        for slot in 0..workers {
            service.take(Event::Ready { slot });
        }
        service
    }

    fn take(&mut self, event: Event) -> Vec<String> {
        let mut short = Vec::new();
        for order in self.roster.take(event, self.now) {
            short.push(match order {
                Order::Say(_, sentence) => {
                    self.said.push(sentence);
                    continue;
                }
                Order::Count(_) => continue,
                Order::Start { slot, number, version, .. } => format!("start {number}@{slot} v{version}"),
                Order::HandOver { from, to } => format!("hand over {from} to {to:?}"),
                Order::GiveAway { from } => format!("give away {from}"),
                Order::CloseIdle { slot } => format!("close idle {slot}"),
                Order::Stop { slot, .. } => format!("stop {slot}"),
                Order::StopNow { slot, .. } => format!("stop now {slot}"),
                Order::Terminate { slot } => format!("terminate {slot}"),
                Order::Abort { slot } => format!("abort {slot}"),
                Order::Kill { slot } => format!("kill {slot}"),
                Order::Reloaded { outcome, old, .. } => {
                    self.leaving = old;
                    self.said.extend(outcome.clone().err());
                    format!("reloaded {}", outcome.is_ok())
                }
                Order::Announce => "announce".to_owned(),
                Order::Close => "close".to_owned(),
                Order::End(exit) => format!("end {}", exit as u8),
            });
        }
        short
    }

    /// Lets time pass.
    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.take(Event::Time)
    }

    fn ended(&mut self, slot: usize, status: i32) -> Vec<String> {
        self.take(Event::Ended { slot, how: ExitStatus::from_raw(status), lost: String::new(), cut: 0 })
    }

    fn killed(&mut self, slot: usize) -> Vec<String> {
        self.ended(slot, SIGKILL)
    }
}

const SIGKILL: i32 = 9;
const OLD: Duration = Duration::from_secs(60);

#[test]
fn first_workers_start_together_and_are_announced_once_all_serve() {
    let (mut service, orders) = Service::start(2);
    assert_eq!(orders, ["start 1@0 v0", "start 2@1 v0"]);
    assert!(service.take(Event::Ready { slot: 1 }).is_empty());
    assert_eq!(service.take(Event::Ready { slot: 0 }), ["announce"]);
}

#[test]
fn service_whose_first_worker_fails_ends_with_its_exit_status() {
    let (mut service, _) = Service::start(2);
    service.take(Event::Failed { slot: 0, exit: 4, reason: "no such module".to_owned() });
    assert_eq!(service.ended(0, 4 << 8), ["terminate 1"]);
    assert_eq!(service.ended(1, 15), ["end 4"]);
    assert_eq!(service.said.len(), 1, "{:?}", service.said);
    assert!(service.said[0].ends_with("cannot start: no such module"), "{:?}", service.said);
}

#[test]
fn workers_that_all_fail_to_start_are_not_said_to_fail_to_stop() {
    let (mut service, _) = Service::start(2);
    assert_eq!(service.ended(0, 4 << 8), ["terminate 1"]);
    assert_eq!(service.ended(1, 4 << 8), ["end 4"]);
    assert_eq!(service.said, [1, 2].map(|number| format!("worker {number} has ended before it served: exit status 4")));
}

#[test]
fn worker_that_fails_while_another_serves_is_tried_again() {
    let (mut service, _) = Service::start(2);
    service.take(Event::Ready { slot: 0 });
    assert_eq!(service.ended(1, 3 << 8), ["announce"]);
    assert_eq!(service.wait(Duration::from_millis(100)), ["start 2@1 v0"]);
}

#[test]
fn worker_that_dies_old_is_replaced_at_once() {
    let mut service = Service::serving(2);
    service.wait(OLD);
    assert_eq!(service.killed(1), ["start 2@1 v0"]);
    assert!(service.said.last().is_some_and(|line| line.ends_with("has ended unexpectedly: signal SIGKILL")));
}

#[test]
fn workers_that_die_young_are_replaced_after_pauses_that_double() {
    let mut service = Service::serving(1);
    for millis in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
        assert!(service.killed(0).is_empty());
        assert!(service.wait(Duration::from_millis(millis - 1)).is_empty());
        assert_eq!(service.wait(Duration::from_millis(1)), ["start 1@0 v0"]);
        service.take(Event::Ready { slot: 0 });
    }
    service.wait(OLD);
    assert_eq!(service.killed(0), ["start 1@0 v0"]);
    service.take(Event::Ready { slot: 0 });
    assert!(service.killed(0).is_empty());
    assert_eq!(service.wait(Duration::from_millis(100)), ["start 1@0 v0"]);
}

#[test]
fn reload_replaces_one_worker_after_another() {
    let mut service = Service::serving(2);
    assert_eq!(service.take(Event::Reload { version: 1, workers: 2 }), ["start 1@2 v1"]);
    assert_eq!(service.take(Event::Ready { slot: 2 }), ["hand over 0 to [2]", "stop 0", "start 2@3 v1"]);
    assert_eq!(service.take(Event::Ready { slot: 3 }), ["hand over 1 to [3]", "stop 1", "reloaded true"]);
    assert!(service.ended(0, 0).is_empty() && service.ended(1, 0).is_empty());
    service.wait(OLD);
    assert_eq!(service.killed(2), ["start 1@0 v1"]);
}

#[test]
fn reload_waits_only_for_old_workers_that_have_not_left() {
    let mut service = Service::serving(2);
    service.take(Event::Reload { version: 1, workers: 2 });
    service.take(Event::Ready { slot: 2 });
    service.take(Event::Left { slot: 0 });
    service.take(Event::Ready { slot: 3 });
    assert_eq!(service.leaving, [1]);
}

#[test]
fn stop_of_the_service_tells_workers_that_stop_already_that_none_receives_their_clients() {
    let mut service = Service::serving(1);
    service.take(Event::Reload { version: 1, workers: 1 });
    service.take(Event::Ready { slot: 1 });
    let orders = service.take(Event::Stop { cause: "SIGTERM".to_owned() });
    assert_eq!(orders, ["close", "close idle 0", "stop 1"]);
}

#[test]
fn reload_whose_worker_fails_keeps_the_old_workers_and_settings() {
    let mut service = Service::serving(2);
    service.take(Event::Reload { version: 1, workers: 2 });
    service.take(Event::Failed { slot: 2, exit: 4, reason: "SyntaxError".to_owned() });
    assert_eq!(service.ended(2, 4 << 8), ["reloaded false"]);
    let last = service.said.last().unwrap();
    assert_eq!(last, "the reload has failed, and the old code serves: worker 1 cannot start: SyntaxError");
    service.wait(OLD);
    assert_eq!(service.killed(0), ["start 1@0 v0"]);
}

#[test]
fn reload_that_fails_halfway_keeps_the_settings_that_have_proved_good() {
    let mut service = Service::serving(3);
    service.take(Event::Reload { version: 1, workers: 3 });
    service.take(Event::Ready { slot: 3 });
    assert_eq!(service.killed(4), ["reloaded false"]);
    let last = service.said.last().unwrap();
    let halfway = "the reload has failed halfway, with 1 worker of the new version and 2 workers of the old one: ";
    assert!(last.starts_with(halfway) && last.ends_with("signal SIGKILL"), "{last}");
    service.wait(OLD);
    assert_eq!(service.killed(1), ["start 2@1 v1"]);
}

#[test]
fn reload_that_fails_without_old_workers_names_none() {
    let mut service = Service::serving(1);
    service.take(Event::Reload { version: 1, workers: 2 });
    service.take(Event::Ready { slot: 1 });
    assert_eq!(service.killed(2), ["reloaded false"]);
    let last = service.said.last().unwrap();
    assert!(last.contains(" with 1 worker of the new version and none of the old one: "), "{last}");
}

#[test]
fn worker_that_a_terminal_ends_at_its_import_has_not_failed() {
    let (mut service, _) = Service::start(1);
    assert_eq!(service.take(Event::Stop { cause: "SIGINT".to_owned() }), ["close", "terminate 0"]);
    let said = service.said.len();
    assert_eq!(service.ended(0, 2), ["end 0"]);
    assert_eq!(service.said.len(), said, "{:?}", service.said);
}

#[test]
fn reload_whose_worker_hangs_is_given_up() {
    let mut service = Service::serving(1);
    service.take(Event::Reload { version: 1, workers: 1 });
    assert_eq!(service.wait(LIMITS.start), ["abort 1"]);
    assert_eq!(service.wait(ABORT), ["kill 1"]);
    assert_eq!(service.killed(1), ["reloaded false"]);
    assert_eq!(service.roster.deadline(), None);
}

#[test]
fn reload_during_a_reload_follows_it_and_several_are_one() {
    let mut service = Service::serving(1);
    service.take(Event::Reload { version: 1, workers: 1 });
    assert!(service.take(Event::Reload { version: 2, workers: 1 }).is_empty());
    assert!(service.take(Event::Reload { version: 3, workers: 1 }).is_empty());
    let orders = service.take(Event::Ready { slot: 1 });
    assert_eq!(orders, ["hand over 0 to [1]", "stop 0", "reloaded true", "start 1@2 v3"]);
}

#[test]
fn worker_that_still_stops_gets_the_successor_of_its_successor() {
    let mut service = Service::serving(2);
    service.take(Event::Reload { version: 1, workers: 1 });
    assert_eq!(service.take(Event::Ready { slot: 2 })[..2], ["hand over 0 to [2]", "stop 0"]);
    service.take(Event::Reload { version: 2, workers: 1 });
    let orders = service.take(Event::Ready { slot: 3 });
    assert_eq!(orders[..4], ["hand over 0 to [3]", "hand over 1 to [3]", "hand over 2 to [3]", "stop 2"], "{orders:?}");
}

#[test]
fn worker_that_stops_gets_another_receiver_when_its_own_dies() {
    let mut service = Service::serving(3);
    service.take(Event::Reload { version: 1, workers: 3 });
    assert_eq!(service.take(Event::Ready { slot: 3 })[..2], ["hand over 0 to [3]", "stop 0"]);
    assert_eq!(service.killed(3)[..1], ["hand over 0 to [1, 2]"]);
}

#[test]
fn worker_that_stops_gets_the_next_worker_when_its_receiver_dies_and_no_other_serves() {
    let mut service = Service::serving(1);
    service.take(Event::Reload { version: 1, workers: 1 });
    assert_eq!(service.take(Event::Ready { slot: 1 })[..2], ["hand over 0 to [1]", "stop 0"]);
    assert!(service.killed(1).is_empty());
    assert_eq!(service.wait(Duration::from_millis(100)), ["start 1@1 v1"]);
    assert_eq!(service.take(Event::Ready { slot: 1 }), ["hand over 0 to [1]"]);
    // It has a receiver again.
    service.take(Event::More);
    assert!(service.take(Event::Ready { slot: 2 }).is_empty());
}

#[test]
fn reload_begins_again_after_a_restart_for_changed_code() {
    let mut service = Service::serving(2);
    let changed = |slot| Event::Changed { slot, file: "shop.py".to_owned() };
    assert_eq!(service.take(Event::Reload { version: 1, workers: 2 }), ["start 1@2 v1"]);
    assert_eq!(service.take(changed(0)), ["stop 0", "stop 1", "terminate 2"]);
    // One that comes during the restart waits, too.
    assert!(service.take(Event::More).is_empty());
    assert!(service.ended(0, 0).is_empty());
    assert_eq!(service.ended(2, 15), ["start 1@0 v0"]);
    assert_eq!(service.ended(1, 0), ["terminate 0", "start 1@1 v1", "start 2@2 v0"]);
    assert!(service.ended(0, 15).is_empty());
    assert_eq!(service.take(Event::Ready { slot: 1 }), ["terminate 2", "start 2@0 v1"]);
    service.ended(2, 15);
    assert_eq!(service.take(Event::Ready { slot: 0 }), ["reloaded true", "start 3@2 v1"]);
    assert_eq!(service.said.iter().filter(|said| said.contains("failed")).count(), 0, "{:?}", service.said);
}

#[test]
fn reload_that_is_asked_for_during_a_restart_waits_for_its_end() {
    let mut service = Service::serving(1);
    assert_eq!(service.take(Event::Changed { slot: 0, file: "shop.py".to_owned() }), ["stop 0"]);
    assert!(service.take(Event::Reload { version: 1, workers: 1 }).is_empty());
    assert_eq!(service.ended(0, 0), ["start 1@0 v1"]);
    assert_eq!(service.take(Event::Ready { slot: 0 }), ["reloaded true"]);
}

#[test]
fn reload_with_other_numbers_of_workers_starts_and_stops_the_rest() {
    let mut service = Service::serving(1);
    service.take(Event::Reload { version: 1, workers: 2 });
    assert_eq!(service.take(Event::Ready { slot: 1 }).last().map(String::as_str), Some("start 2@2 v1"));
    assert_eq!(service.take(Event::Ready { slot: 2 }), ["reloaded true"]);
    service.ended(0, 0);
    service.take(Event::Reload { version: 2, workers: 1 });
    let orders = service.take(Event::Ready { slot: 0 });
    assert_eq!(orders, ["hand over 1 to [0]", "stop 1", "hand over 2 to [0]", "stop 2", "reloaded true"]);
}

#[test]
fn worker_that_dies_during_a_reload_is_replaced() {
    let mut service = Service::serving(2);
    service.wait(OLD);
    service.take(Event::Reload { version: 1, workers: 2 });
    assert_eq!(service.killed(1), ["start 2@1 v0"]);
    // The worker that the reload replaces has died: its successor simply serves.
    assert!(service.killed(0).is_empty());
    assert_eq!(service.take(Event::Ready { slot: 2 }), ["terminate 1", "start 2@0 v1"]);
    assert_eq!(service.take(Event::Ready { slot: 0 }), ["reloaded true"]);
}

#[test]
fn workers_that_ask_for_replacements_get_them_one_at_a_time() {
    let mut service = Service::serving(2);
    let replace = |slot| Event::Replace { slot, cause: Departure::Requests, reason: "1,000 requests".to_owned() };
    assert_eq!(service.take(replace(0)), ["start 1@2 v0"]);
    assert!(service.take(replace(1)).is_empty());
    assert_eq!(service.take(Event::Ready { slot: 2 }), ["hand over 0 to [2]", "stop 0", "start 2@3 v0"]);
    assert_eq!(service.take(Event::Ready { slot: 3 }), ["hand over 1 to [3]", "stop 1"]);
}

#[test]
fn replacement_that_does_not_come_up_is_tried_again() {
    let mut service = Service::serving(1);
    service.take(Event::Replace { slot: 0, cause: Departure::Memory, reason: "memory".to_owned() });
    assert!(service.killed(1).is_empty());
    assert_eq!(service.wait(Duration::from_millis(100)), ["start 1@1 v0"]);
    assert_eq!(service.take(Event::Ready { slot: 1 }), ["hand over 0 to [1]", "stop 0"]);
}

#[test]
fn one_worker_more_and_one_less() {
    let mut service = Service::serving(2);
    assert_eq!(service.take(Event::More), ["start 3@2 v0"]);
    service.take(Event::Ready { slot: 2 });
    assert_eq!(service.take(Event::Fewer), ["hand over 2 to [0, 1]", "stop 2"]);
    assert_eq!(service.take(Event::Fewer), ["hand over 1 to [0]", "stop 1"]);
    assert!(service.take(Event::Fewer).is_empty());
    assert_eq!(service.take(Event::Resize { workers: 0, cause: "SIGWINCH" }), ["stop 0"]);
    assert_eq!(service.take(Event::More), ["start 1@3 v0"]);
}

#[test]
fn number_of_workers_has_a_limit() {
    let mut service = Service::serving(WORKERS_MAX - 1);
    assert_eq!(service.take(Event::More).len(), 1);
    assert!(service.take(Event::More).is_empty());
    assert_eq!(service.said.pop().unwrap(), "SIGTTIN: 256 workers stay, because there can be no more");
    assert_eq!(service.roster.target(), WORKERS_MAX);
}

#[test]
fn stuck_worker_is_aborted_then_killed_then_replaced() {
    let mut service = Service::serving(1);
    service.wait(OLD);
    assert_eq!(service.take(Event::Stuck { slot: 0, reason: "it stands still".to_owned() }), ["abort 0"]);
    assert_eq!(service.wait(ABORT), ["kill 0"]);
    assert_eq!(service.killed(0), ["start 1@0 v0"]);
}

#[test]
fn service_stops_gracefully_and_kills_what_is_too_late() {
    let mut service = Service::serving(2);
    let stop = || Event::Stop { cause: "SIGTERM".to_owned() };
    assert_eq!(service.take(stop()), ["close", "stop 0", "stop 1"]);
    assert!(service.ended(0, 0).is_empty());
    assert_eq!(service.wait(LIMITS.stop + END_OF_PYTHON), ["kill 1"]);
    assert_eq!(service.killed(1), ["end 0"]);
}

#[test]
fn workers_give_their_clients_to_a_new_supervisor() {
    let mut service = Service::serving(2);
    service.take(Event::Replace { slot: 0, cause: Departure::Memory, reason: "memory".to_owned() });
    assert_eq!(service.take(Event::Ready { slot: 2 })[..2], ["hand over 0 to [2]", "stop 0"]);
    let orders = service.take(Event::Succeeded);
    assert_eq!(orders, ["give away 0", "give away 1", "give away 2", "stop 1", "stop 2"]);
    assert!(service.ended(0, 0).is_empty() && service.ended(2, 0).is_empty());
    assert_eq!(service.take(Event::GiveAgain), ["give away 1"]);
    assert_eq!(service.take(Event::SuccessorEnded), ["close idle 1"]);
    assert_eq!(service.ended(1, 0), ["end 0"]);
}

#[test]
fn second_stop_ends_the_workers_at_once() {
    let mut service = Service::serving(1);
    let stop = || Event::Stop { cause: "SIGINT".to_owned() };
    service.take(stop());
    assert_eq!(service.take(stop()), ["stop now 0"]);
    assert_eq!(service.wait(LAST_MOMENT), ["kill 0"]);
}

#[test]
fn stop_during_the_start_ends_with_status_0() {
    let (mut service, _) = Service::start(1);
    assert_eq!(service.take(Event::Stop { cause: "SIGTERM".to_owned() }), ["close", "terminate 0"]);
    assert_eq!(service.ended(0, 15), ["end 0"]);
}
