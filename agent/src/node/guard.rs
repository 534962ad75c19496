//! GPUs that show faults: what becomes of each is decided elsewhere (`berth_supervise::gpu`);
//! here it is told what happens, and what it decides is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use berth_model::{
    AllocationId, Device, DeviceClaim, DeviceHealth, DurationMs, HEALTH_REASON_BYTES_MAX, JobId,
    MemoryBytes,
};
use berth_supervise::gpu::{
    Consent, Cut, Deed, FaultTable, Gpu, Held, Rules, Standing, Stuck, Tested,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Event, Node};
use crate::clock;
use crate::data_dir::DataDir;
use crate::gpus::{
    Gpus, Happened, Now, PART, Releases, Workshop, faults_to_bytes, kept, read_faults,
};

/// Between two looks at a GPU whose worker has just ended.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// Between two looks at a GPU that is on its way back.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Fences that the cluster holds back are asked for again after this: half of the time
/// that its brake looks back.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);
const FILE: &str = "gpu-faults";

/// How this node mends GPUs.
#[derive(Clone, Debug)]
pub struct Repairs {
    pub table: FaultTable,
    /// How long a mended GPU has to be quiet.
    pub soak: DurationMs,
    /// How long memory may be in use after its last worker.
    pub stuck_after: DurationMs,
    pub workshop: Workshop,
}

/// The GPUs of this node and how far each is.
pub struct Guard {
    pub(super) gpus: Gpus,
    /// By uuid.
    under_way: BTreeSet<String>,
    /// Fenced, as the last hello said.
    said: BTreeSet<String>,
    /// Fenced, and the cluster has taken their work away.
    agreed: BTreeSet<String>,
    /// Fenced, and the cluster goes on using them.
    held_back: BTreeSet<String>,
    ask_again_at: Option<Instant>,
    /// Their memory, from one worker to the next; by uuid.
    pub(super) releases: Releases,
    /// The GPUs of all parts that there are, and of those that are gone and that a worker still
    /// holds; by the parts' uuids.
    pub(super) wholes: BTreeMap<String, String>,
    /// Those of which it was said that they are cut up and offer nothing.
    pub(super) bare: BTreeSet<String>,
    /// The last look that they were told of.
    looks: u64,
    look_at: Option<Instant>,
    /// What is to be on disk.
    file: watch::Sender<Vec<u8>>,
}

impl Guard {
    /// What an earlier agent knew, and from now on what is known.
    pub fn begin(dir: &DataDir) -> Guard {
        let file = dir.file(FILE);
        let now = Now { wall: clock::wall(), agent: clock::now() };
        let (gpus, releases) = read_faults(&file, now);
        let (content, contents) = watch::channel(faults_to_bytes(&gpus, &releases));
        tokio::spawn(keep(file, contents));
        Guard {
            gpus,
            under_way: BTreeSet::new(),
            said: BTreeSet::new(),
            agreed: BTreeSet::new(),
            held_back: BTreeSet::new(),
            ask_again_at: None,
            releases,
            wholes: BTreeMap::new(),
            bare: BTreeSet::new(),
            looks: 0,
            look_at: None,
            file: content,
        }
    }

    /// When something is due without any event.
    pub fn next_look(&self) -> Option<Instant> {
        self.look_at.into_iter().chain(self.ask_again_at).min()
    }

    /// Has devices be what is known of them.
    pub fn mark(&self, devices: &mut [Device]) {
        for device in devices {
            let parent = device.slice.as_ref().map(|slice| slice.parent.clone());
            for uuid in [Some(device.uuid.clone()), parent].into_iter().flatten() {
                if let Some(gpu) = self.gpus.get(&uuid) {
                    self.mark_one(device, health_of(&uuid, gpu));
                }
            }
            // A longer one would keep the whole node out.
            let longest = device.reason.floor_char_boundary(HEALTH_REASON_BYTES_MAX);
            device.reason.truncate(longest);
        }
    }

    fn mark_one(&self, device: &mut Device, (health, reason): (DeviceHealth, String)) {
        // What the cluster goes on using all the same is what the driver says of it.
        let unanswered =
            self.held_back.contains(&device.uuid) && device.health >= DeviceHealth::Cordoned;
        if health > device.health && !unanswered {
            (device.health, device.reason) = (health, reason);
        } else if device.health == DeviceHealth::Lost && !reason.is_empty() {
            device.reason = format!("{}; {reason}", device.reason);
        }
    }
}

/// What a GPU, or a part of one, may be used for, and why no more than that.
fn health_of(uuid: &str, gpu: &Gpu) -> (DeviceHealth, String) {
    if uuid.starts_with(PART) { gpu.health_of_part() } else { gpu.health() }
}

/// Keeps the file true for as long as anybody writes to it.
async fn keep(file: PathBuf, mut contents: watch::Receiver<Vec<u8>>) {
    while contents.changed().await.is_ok() {
        let (file, content) = (file.clone(), contents.borrow_and_update().clone());
        kept::write(file, content).await;
    }
}

/// How much is used, and by whom as far as the driver says so.
fn stuck_detail(stuck: Stuck, pids: &[u32]) -> String {
    let used = MemoryBytes(stuck.used_bytes);
    let holders: Vec<String> = pids.iter().take(4).map(u32::to_string).collect();
    let holders = if holders.is_empty() { "nobody".to_owned() } else { holders.join(", ") };
    format!("({used}) long after its worker ended, by {holders}")
}

impl Node {
    /// A GPU reports an error.
    pub(super) fn gpu_fault(&mut self, happened: Happened) {
        let Happened { uuid, xid } = happened;
        metrics::counter!("berth_agent_gpu_errors_total", "xid" => xid.to_string()).increment(1);
        let jobs = self.job_on(&uuid).into_iter().collect();
        self.change_gpu(&uuid, |gpu, rules| gpu.happened(rules, xid, jobs, clock::wall()));
        self.after_guarding();
    }

    /// A reset has ended.
    pub(super) fn gpu_mended(&mut self, uuid: &str, outcome: Result<(), String>) {
        self.guard.under_way.remove(uuid);
        self.change_gpu(uuid, |gpu, _| gpu.mended(outcome, clock::wall()));
        self.after_guarding();
    }

    /// A test has ended.
    pub(super) fn gpu_tested(&mut self, uuid: &str, outcome: Tested) {
        if let Tested::Undone(problem) = &outcome {
            warn!(uuid, problem, "GPU was not tested");
        }
        self.guard.under_way.remove(uuid);
        self.change_gpu(uuid, |gpu, _| gpu.tested(outcome, clock::wall()));
        self.after_guarding();
    }

    /// Tells every GPU what a new look shows.
    pub(super) fn guard_gpus(&mut self) {
        self.keep_wholes();
        self.tell_of_bare();
        let held = self.held_devices();
        self.look_at_memory(&held);
        self.look_at_sharers();
        let signs: Vec<_> =
            self.gpus.signs().map(|(uuid, signs)| (uuid.to_owned(), signs)).collect();
        for (uuid, mut signs) in signs {
            if held.contains(&uuid) {
                signs.held = Held::Held;
            }
            if self.gpus.linked(&uuid).any(|other| held.contains(other)) {
                signs.peers = Held::Held;
            }
            let agreed = |uuid: &str| self.guard.agreed.contains(uuid);
            let is_agreed = match self.gpus.is_cut(&uuid) {
                true => self.gpus.parts(&uuid).all(agreed),
                false => agreed(&uuid),
            };
            if is_agreed {
                signs.consent = Consent::Given;
            }
            self.change_gpu(&uuid, |gpu, rules| gpu.looked(rules, signs, clock::wall()));
        }
        self.after_guarding();
    }

    /// What is due by itself.
    pub(super) fn guard_in_time(&mut self) {
        let now = Instant::now();
        if self.guard.ask_again_at.is_some_and(|at| now >= at) {
            self.guard.ask_again_at = None;
            // A hello that says the same again asks again.
            self.inventory += 1;
        }
        if self.guard.look_at.is_some_and(|at| now >= at) {
            // What it shows comes as news.
            self.settings.repairs.workshop.look_now.notify_one();
            self.look_again();
        }
    }

    /// A session begins with these devices.
    pub(super) fn say_fences(&mut self) {
        let fenced = self.devices.iter().filter(|device| device.health == DeviceHealth::Fenced);
        self.guard.said = fenced.map(|device| device.uuid.clone()).collect();
        let said = &self.guard.said;
        self.guard.agreed.retain(|uuid| said.contains(uuid));
    }

    /// The cluster has heard which GPUs are fenced, and goes on using these.
    pub(super) fn fences_heard(&mut self, held_back: &[String]) {
        if !held_back.is_empty() {
            let gpu_count = held_back.len();
            warn!(gpu_count, "faulty GPUs stay in use: too many were fenced at once");
        }
        self.guard.agreed =
            self.guard.said.iter().filter(|uuid| !held_back.contains(uuid)).cloned().collect();
        self.guard.ask_again_at = (!held_back.is_empty()).then(|| Instant::now() + ASK_AGAIN_AFTER);
        // Of what was not said to be fenced this time nothing new is known.
        let said = &self.guard.said;
        self.guard.held_back.retain(|uuid| !said.contains(uuid));
        self.guard.held_back.extend(held_back.iter().cloned());
        self.renew_devices();
    }

    /// A worker has ended: what it held is given to nobody before it was seen free.
    pub(super) fn leave_devices(&mut self, id: AllocationId) {
        let Some(claims) = self.workers.get(&id).and_then(|worker| worker.devices()) else {
            return;
        };
        // Of one that the driver does not know nobody can say when it is free.
        let seen = claims
            .iter()
            .filter(|claim| self.gpus.looks == 0 || self.whole_of(&claim.uuid).is_some());
        let uuids: Vec<String> =
            seen.flat_map(|claim| self.offered_of(&claim.uuid)).map(str::to_owned).collect();
        for uuid in uuids {
            self.guard.releases.entry(uuid).or_default().left(clock::now());
            self.guard.look_at = Some(Instant::now());
        }
    }

    /// The GPUs that no worker may begin on: not seen free yet, being mended or tested, or
    /// linked with one that is being mended.
    pub(super) fn unfree_devices(&self) -> impl Iterator<Item = &str> {
        let unfree = self.guard.releases.iter().filter(|(_, release)| !release.is_free());
        let unfree = unfree.map(|(uuid, _)| uuid.as_str());
        let mended = self.guard.gpus.iter().filter(|(_, gpu)| gpu.standing == Standing::Mending);
        let linked = mended.flat_map(|(uuid, _)| self.gpus.linked(uuid));
        let under_way = self.guard.under_way.iter().map(String::as_str).chain(linked);
        let parts = |uuid| self.gpus.parts(uuid).chain([uuid]);
        unfree.chain(under_way.flat_map(parts)).chain(self.overlapping())
    }

    /// Tells every GPU that no worker holds what is used of its memory.
    fn look_at_memory(&mut self, held: &BTreeSet<String>) {
        if self.gpus.looks == self.guard.looks {
            return;
        }
        self.guard.looks = self.gpus.looks;
        let free = self.devices.iter().filter(|device| !held.contains(&device.uuid));
        // What a test uses is none of what is used when nobody is there.
        let free = free.filter(|device| !self.guard.under_way.contains(&device.uuid));
        let uuids: Vec<String> = free.map(|device| device.uuid.clone()).collect();
        for uuid in uuids {
            let Some((used, pids)) = self.gpus.memory(&uuid) else { continue };
            let release = self.guard.releases.entry(uuid.clone()).or_default();
            let was_free = release.is_free();
            let stuck = release.looked(used, self.settings.repairs.stuck_after, clock::now());
            let came_free = release.is_free() && !was_free;
            if let Some(stuck) = stuck {
                let detail = stuck_detail(stuck, &pids);
                self.change_gpu(&uuid, |gpu, _| gpu.stuck(&detail));
            }
            if came_free {
                self.change_gpu(&uuid, |gpu, _| gpu.came_free());
            }
        }
    }

    fn change_gpu(&mut self, uuid: &str, change: impl FnOnce(&mut Gpu, Rules<'_>)) {
        let repairs = &self.settings.repairs;
        let rules =
            Rules { table: &repairs.table, soak: repairs.soak, boot_id: &self.settings.boot_id };
        let mut gpu = self.guard.gpus.get(uuid).cloned().unwrap_or_default();
        let before = health_of(uuid, &gpu);
        change(&mut gpu, rules);
        let (health, reason) = health_of(uuid, &gpu);
        if (health, &reason) != (before.0, &before.1) {
            let health = health.name();
            info!(uuid, health, reason, "health of a GPU has changed");
        }
        self.guard.gpus.insert(uuid.to_owned(), gpu);
    }

    /// Does what is to be done, and sees to it that it is remembered.
    pub(super) fn after_guarding(&mut self) {
        let deeds: Vec<(String, Deed)> = self
            .guard
            .gpus
            .iter()
            .filter_map(|(uuid, gpu)| gpu.deed().map(|deed| (uuid.clone(), deed)))
            .collect();
        for (uuid, deed) in deeds {
            if self.guard.under_way.insert(uuid.clone()) {
                self.do_deed(uuid, deed);
            }
        }
        self.look_again();
        let content = faults_to_bytes(&self.guard.gpus, &self.guard.releases);
        self.guard.file.send_if_modified(|known| {
            let changed = *known != content;
            *known = content;
            changed
        });
        self.renew_devices();
    }

    /// Sees to it that whatever is on its way is looked at again.
    fn look_again(&mut self) {
        let is_settled = |gpu: &Gpu| {
            gpu.standing == Standing::Healthy && !gpu.reset_when_free && gpu.slow.is_none()
        };
        let moving = self.guard.gpus.values().any(|gpu| !is_settled(gpu));
        let now = clock::now();
        let soon = self.guard.releases.values().any(|release| release.is_fresh(now));
        let after = if soon { Some(LOOK_SOON) } else { moving.then_some(LOOK_EVERY) };
        self.guard.look_at = after.map(|after| Instant::now() + after);
    }

    fn do_deed(&self, uuid: String, deed: Deed) {
        let (workshop, events) = (self.settings.repairs.workshop.clone(), self.events.clone());
        let cut = if self.gpus.is_cut(&uuid) { Cut::InParts } else { Cut::Whole };
        tokio::spawn(async move {
            let event = match deed {
                Deed::Reset => {
                    let outcome = workshop.reset(uuid.clone()).await;
                    Event::GpuMended(uuid, outcome)
                }
                Deed::Test => {
                    let outcome = workshop.test(&uuid, cut).await;
                    Event::GpuTested(uuid, outcome)
                }
            };
            // The loop may have ended.
            let _ = events.send(event);
        });
    }

    /// The job whose workers hold a GPU or parts of it, as far as a fault of an application could
    /// be its: where several jobs share one the driver does not say whose it was.
    fn job_on(&self, uuid: &str) -> Option<JobId> {
        let is_it = |claim: &DeviceClaim| self.whole_of(&claim.uuid) == Some(uuid);
        let holds = |devices: &[DeviceClaim]| devices.iter().any(is_it);
        let holding = self.workers_here().filter(|(_, worker)| worker.devices().is_some_and(holds));
        let jobs: BTreeSet<JobId> = holding.map(|(id, _)| id.job).collect();
        jobs.first().copied().filter(|_| jobs.len() == 1)
    }

    /// The GPUs, and parts of GPUs, that a worker of this node holds; all where nobody knows.
    fn held_devices(&self) -> BTreeSet<String> {
        let mut held = BTreeSet::new();
        for (_, worker) in self.workers_here() {
            match worker.devices() {
                Some(claims) => held.extend(claims.iter().map(|claim| claim.uuid.clone())),
                None => held.extend(self.devices.iter().map(|device| device.uuid.clone())),
            }
        }
        let wholes = held.iter().filter_map(|uuid| self.whole_of(uuid)).map(str::to_owned);
        let wholes: Vec<String> = wholes.collect();
        held.extend(wholes);
        held.extend(self.overlapping().map(str::to_owned));
        held
    }
}
