//! The operator in this world: the real client library's calls.
//!
//! A change that adds a node is asked again until it is answered: the number that the log gives out
//! must be that of the machine at the address. Next: `crate::admin` for what is asked.

use super::machine::address;
use super::pause::pause_us;
use super::world::{Shared, kind};
use crate::admin::{Deed, Operator};
use crate::history::ChangeAnswer;
use crate::scenario::Scenario;
use crate::streams::Stream;
use client::{CallError, Client, Options};
use engine::raft::{ChangeRequest, Leave, Membership, Step};
use madsim::runtime::{Handle, NodeHandle};
use madsim::task::NodeId as Host;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A pause before a change is asked for again, microseconds.
const PAUSE_US: u64 = 100_000;
/// Tries after which a node is not added any more.
const TRIES_MAX: u32 = 20;
/// A call ends after this.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The operator.
pub(super) struct Admin {
    host: NodeHandle,
    is_active: Arc<AtomicBool>,
    is_busy: Arc<AtomicBool>,
}

impl Admin {
    /// Starts the operator of the scenario, if it has one.
    pub(super) fn start(shared: &Shared) -> Self {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
        let host = Handle::current().create_node().name("operator").ip(ip).build();
        let has_deeds = shared.lock().scenario.admin.pause_ms > 0;
        let is_active = Arc::new(AtomicBool::new(has_deeds));
        let is_busy = Arc::new(AtomicBool::new(has_deeds));
        if has_deeds {
            let acting = Acting {
                shared: shared.clone(),
                is_active: Arc::clone(&is_active),
                is_busy: Arc::clone(&is_busy),
            };
            drop(host.spawn(acting.act()));
        }
        Self { host, is_active, is_busy }
    }

    /// Its machine.
    pub(super) fn host(&self) -> Host {
        self.host.id()
    }

    /// Begins nothing new but what ends a change that waits for it.
    pub(super) fn stop(&self) {
        self.is_active.store(false, Ordering::Relaxed);
    }

    /// Whether it has not come to its end.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }
}

struct Acting {
    shared: Shared,
    is_active: Arc<AtomicBool>,
    is_busy: Arc<AtomicBool>,
}

impl Acting {
    fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    fn membership(&self) -> Membership {
        self.shared.lock().committed.memberships().newest().1.clone()
    }

    async fn act(self) {
        let scenario: Scenario = self.shared.lock().scenario.clone();
        let mut operator = Operator::new(&scenario, address);
        let client = self.connect(&scenario).await;
        while self.is_active() {
            pause_us(operator.draw_pause_us()).await;
            let Some(deed) = operator.draw(&self.membership()) else { continue };
            self.perform(&client, &mut operator, deed).await;
        }
        loop {
            let membership = self.membership();
            if !membership.is_joint() || membership.leave() != Leave::Explicit {
                break;
            }
            // Refused if somebody else was faster; the next look tells.
            drop(self.ask(&client, Deed::Change(ChangeRequest::Leave)).await);
            pause_us(PAUSE_US).await;
        }
        self.is_busy.store(false, Ordering::Relaxed);
    }

    async fn connect(&self, scenario: &Scenario) -> Client {
        let addresses: Vec<String> = (1..=scenario.machines()).map(address).collect();
        let mut seeds = Stream::new(scenario.seed, "operator's library");
        loop {
            let seed = Some(seeds.next_u64());
            let options = Options { timeout: TIMEOUT, seed, ..Options::default() };
            if let Ok(client) = Client::connect(&addresses, options).await {
                return client;
            }
        }
    }

    async fn perform(&self, client: &Client, operator: &mut Operator, deed: Deed) {
        let adds = matches!(&deed, Deed::Change(ChangeRequest::Change(change))
            if change.steps.iter().any(|step| matches!(step, Step::Add { .. })));
        for _ in 0..TRIES_MAX {
            if self.ask(client, deed.clone()).await.is_ok() || !adds {
                return;
            }
            pause_us(PAUSE_US).await;
        }
        operator.forget_spares();
    }

    async fn ask(&self, client: &Client, deed: Deed) -> Result<(), CallError> {
        let asked_us = {
            let mut world = self.shared.lock();
            world.event(kind::CALL, u64::MAX, [0, 0]);
            world.tell("op", ' ', format_args!("asks: {deed:?}"));
            world.now_us()
        };
        let result = match deed {
            Deed::Change(change) => client.change_membership(change).await.map(Some),
            Deed::Transfer(to) => client.transfer(to).await.map(|_| None),
        };
        let mut world = self.shared.lock();
        let at_us = world.now_us();
        world.event(kind::ANSWER, u64::MAX, [u64::from(result.is_ok()), 0]);
        world.tell("op", ' ', format_args!("is told: {result:?}"));
        if let Some(changed) = result? {
            let (index, membership) = (changed.index, changed.membership);
            world.changes.push(ChangeAnswer { asked_us, at_us, index, membership });
        }
        Ok(())
    }
}
