//! What is known of the host's GPUs, and what follows for the node: pure.

mod memory;

use std::collections::BTreeMap;

use berth_model::{Device, DeviceHealth, MemoryBytes};
use berth_proto::v1::DeviceSample;
use berth_supervise::gpu::{Consent, Cut, Held, Presence, Recovery, Remap, Signs, Slowdown};

use super::gauges::Answers;
use super::kernel_log::Place;
use super::said::{GpuLook, Look, Said, SlowedBy};
use super::slices;
use super::ways::Ways;
pub use memory::MemoryLook;

/// A GPU that the driver no longer counts has left the bus when it is missing in so many
/// looks that were due, which are a second apart: one that is missing once may be a driver that is not up to it yet.
const ABSENT_LOOKS_MAX: u32 = 3;
/// Of GPUs that do not tell their name.
const NAMELESS: &str = "NVIDIA GPU";
/// What uuids of parts of GPUs begin with.
pub const PART: &str = "MIG-";

/// Whether the library answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Probing {
    /// It has not said anything yet.
    #[default]
    Starting,
    Live,
    /// Nobody asks it for a moment: a GPU is reset. All else is as it was.
    Paused,
    /// It says nothing any more: a call hangs.
    Silent,
    /// It says that it cannot be used, and why.
    Unavailable {
        reason: String,
    },
}

impl Probing {
    /// Why nothing is known of the GPUs now; empty if it is.
    fn in_words(&self) -> String {
        match self {
            Probing::Starting => "not seen since the agent began".to_owned(),
            Probing::Live | Probing::Paused => String::new(),
            Probing::Silent => "the driver does not answer".to_owned(),
            Probing::Unavailable { reason } => reason.clone(),
        }
    }
}

/// What was said of the GPUs so far.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Seen {
    pub probing: Probing,
    /// Version of the driver; empty if it is not known.
    pub driver: String,
    /// Counts the looks.
    pub looks: u64,
    /// By uuid; kept while the library does not answer.
    gpus: BTreeMap<String, Gpu>,
    ways: Ways,
}

#[derive(Clone, PartialEq, Debug)]
struct Gpu {
    /// As it last answered.
    look: GpuLook,
    standing: Standing,
}

/// What the last look said of one GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Answers,
    /// It is there and does not answer as it should.
    Unanswering,
    /// It answers nothing but that it has to be reset.
    NeedsReset,
    /// It is not there, and was not in so many looks that were due.
    Absent(u32),
    Lost,
}

impl Seen {
    /// What an agent begins with: the GPUs that the one before it knew. Until they are
    /// seen they take nothing new.
    pub fn remembered(known: Look) -> Seen {
        let mut ways = Ways::default();
        ways.hear(&known.topology.unwrap_or_default());
        let gpus = known.gpus.into_iter().map(|look| {
            let standing = if look.is_lost { Standing::Lost } else { Standing::Unanswering };
            (look.uuid.clone(), Gpu { look, standing })
        });
        Seen { gpus: gpus.collect(), ways, ..Seen::default() }
    }

    /// The GPUs as they may be remembered: while the library answers.
    pub fn to_remember(&self) -> Option<Look> {
        let remembered = |gpu: &Gpu| GpuLook {
            index: gpu.look.index,
            uuid: gpu.look.uuid.clone(),
            name: gpu.look.name.clone(),
            bus: gpu.look.bus.clone(),
            minor: gpu.look.minor,
            memory_total_bytes: gpu.look.memory_total_bytes,
            cut: gpu.look.cut.clone().map(slices::without_use),
            cut_untold: gpu.look.cut_untold,
            is_listed: gpu.look.is_listed,
            nodes: gpu.look.nodes.clone(),
            environment: gpu.look.environment.clone(),
            is_lost: gpu.standing == Standing::Lost,
            ..GpuLook::default()
        };
        (self.probing == Probing::Live).then(|| Look {
            gpus: self.gpus.values().map(remembered).collect(),
            topology: Some(self.ways.to_said()),
            ..Look::default()
        })
    }

    /// The GPU that is there on the bus.
    pub fn at(&self, place: Place) -> Option<String> {
        let mut gpus = self.gpus.iter();
        gpus.find(|(_, gpu)| Place::of(&gpu.look.bus) == Some(place)).map(|(uuid, _)| uuid.clone())
    }

    /// The number of a GPU's device node, if the driver says it; a part has its GPU's.
    pub fn minor(&self, uuid: &str) -> Option<u32> {
        self.gpus.get(self.whole(uuid)?)?.look.minor
    }

    /// The GPU that a device is, or is a part of.
    pub fn whole(&self, uuid: &str) -> Option<&str> {
        let is_it = |(whole, gpu): &(&String, &Gpu)| {
            *whole == uuid || slices::slice(&gpu.look, uuid).is_some()
        };
        self.gpus.iter().find(is_it).map(|(whole, _)| whole.as_str())
    }

    /// Whether it is a command that says that a device is there, so that no driver of NVIDIA's
    /// knows of it.
    pub fn is_listed(&self, uuid: &str) -> bool {
        self.gpus.get(uuid).is_some_and(|gpu| gpu.look.is_listed)
    }

    /// The device nodes that workers need for these devices, beside those that the driver
    /// counts.
    pub fn nodes<'a>(&self, uuids: impl Iterator<Item = &'a str>) -> Vec<String> {
        let gpus = uuids.filter_map(|uuid| self.gpus.get(uuid));
        let mut nodes: Vec<String> = gpus.flat_map(|gpu| gpu.look.nodes.clone()).collect();
        nodes.sort();
        // Several may share one.
        nodes.dedup();
        nodes
    }

    /// What workers find in their environment for these devices: where several say something of
    /// one variable, all of it, with commas between.
    pub fn environment<'a>(
        &self,
        uuids: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, String> {
        let mut joined: BTreeMap<String, String> = BTreeMap::new();
        for gpu in uuids.filter_map(|uuid| self.gpus.get(uuid)) {
            for (name, value) in &gpu.look.environment {
                let all = joined.entry(name.clone()).or_default();
                if !all.is_empty() {
                    all.push(',');
                }
                all.push_str(value);
            }
        }
        joined
    }

    /// Whether a GPU is offered in parts, if at all.
    pub fn is_cut(&self, uuid: &str) -> bool {
        self.gpus.get(uuid).is_some_and(|gpu| gpu.look.cut.is_some())
    }

    /// The parts of a GPU, if it is cut up.
    pub fn parts(&self, uuid: &str) -> impl Iterator<Item = &str> {
        let cut = self.gpus.get(uuid).and_then(|gpu| gpu.look.cut.as_ref());
        cut.into_iter().flat_map(|cut| &cut.slices).map(|slice| slice.uuid.as_str())
    }

    /// The GPUs that are in MIG mode and have no part that is offered, so that they are of no use.
    pub fn bare(&self) -> impl Iterator<Item = &str> {
        let is_bare = |gpu: &Gpu| {
            gpu.look.cut.as_ref().is_some_and(|cut| slices::offered(cut).next().is_none())
        };
        self.gpus.iter().filter(move |(_, gpu)| is_bare(gpu)).map(|(uuid, _)| uuid.as_str())
    }

    /// All parts, each with its GPU.
    pub fn all_parts(&self) -> impl Iterator<Item = (&str, &str)> {
        let wholes = self.gpus.keys().map(String::as_str);
        wholes.flat_map(|whole| self.parts(whole).map(move |part| (part, whole)))
    }

    /// The GPUs that may be cut up.
    pub fn wholes(&self) -> impl Iterator<Item = &str> {
        let wholes = self.gpus.iter().filter(|(_, gpu)| !gpu.look.is_listed);
        wholes.map(|(uuid, _)| uuid.as_str())
    }

    /// Whether the driver says that there is no such device: a part that was taken away, or a
    /// GPU that is offered in parts only.
    pub fn is_cut_away(&self, uuid: &str) -> bool {
        let is_cut = self.gpus.get(uuid).map(|gpu| gpu.look.cut.is_some());
        let is_part = uuid.starts_with(PART) && self.probing == Probing::Live;
        let tells = |gpu: &Gpu| gpu.standing == Standing::Answers && !gpu.look.cut_untold;
        let all_tell = self.gpus.values().all(tells);
        is_cut.unwrap_or(is_part && all_tell && self.whole(uuid).is_none())
    }

    /// Forgets those that are not among these.
    pub fn keep_only(&mut self, uuids: &[String]) {
        self.gpus.retain(|uuid, _| uuids.contains(uuid));
        self.ways.keep_only(uuids);
    }

    /// The host was started again since it was told which GPUs have NVLinks.
    pub fn forget_links(&mut self) {
        self.ways.forget_links();
    }

    /// Takes in what the prober says of the state of things.
    pub fn hear(&mut self, said: Said) {
        match said {
            Said::Look(look) => self.look(look),
            Said::Unavailable(unavailable) => {
                self.probing = Probing::Unavailable { reason: unavailable.reason };
            }
            Said::Happened(_) => {}
        }
    }

    fn look(&mut self, look: Look) {
        let Look { driver, gpus, lost, unanswering, nameless, topology, need_reset, is_extra } =
            look;
        let due_looks = u32::from(!is_extra);
        self.ways.hear(&topology.unwrap_or_default());
        for (uuid, gpu) in &mut self.gpus {
            gpu.standing = match gpu.standing {
                _ if lost.contains(uuid) => Standing::Lost,
                _ if need_reset.contains(uuid) => Standing::NeedsReset,
                // Until it answers again.
                Standing::Lost => Standing::Lost,
                _ if nameless > 0 || unanswering.contains(uuid) => Standing::Unanswering,
                Standing::Answers | Standing::Unanswering | Standing::NeedsReset => {
                    Standing::Absent(due_looks)
                }
                Standing::Absent(looks) if looks + due_looks >= ABSENT_LOOKS_MAX => Standing::Lost,
                Standing::Absent(looks) => Standing::Absent(looks + due_looks),
            };
        }
        for mut look in gpus {
            let before = self.gpus.get(&look.uuid).map(|gpu| &gpu.look);
            // What it does not tell this time it told before.
            if look.memory_total_bytes == 0 {
                look.memory_total_bytes = before.map_or(0, |gpu| gpu.memory_total_bytes);
            }
            if look.name.is_empty() {
                look.name = before.map_or_else(|| NAMELESS.to_owned(), |gpu| gpu.name.clone());
            }
            if let Some(before) = before {
                slices::go_on(&mut look, before, due_looks, ABSENT_LOOKS_MAX);
            }
            let gpu = Gpu { look, standing: Standing::Answers };
            self.gpus.insert(gpu.look.uuid.clone(), gpu);
        }
        (self.probing, self.driver) = (Probing::Live, driver);
        self.looks += 1;
    }

    /// Nobody asks for a moment.
    pub fn pause(&mut self) {
        self.probing = Probing::Paused;
    }

    /// The GPUs that are there, as they last answered, and whether they do so now; in the
    /// driver's order. While nobody asks for a moment they are as they were.
    pub fn shown(&self) -> Vec<(&GpuLook, Answers)> {
        let live = matches!(self.probing, Probing::Live | Probing::Paused);
        let shown = self.gpus.values().filter_map(|gpu| match gpu.standing {
            Standing::Lost => None,
            Standing::Answers if live => Some((&gpu.look, Answers::Yes)),
            Standing::Answers
            | Standing::Unanswering
            | Standing::NeedsReset
            | Standing::Absent(_) => Some((&gpu.look, Answers::No)),
        });
        let mut shown: Vec<(&GpuLook, Answers)> = shown.collect();
        shown.sort_by_key(|(look, _)| (look.index, &look.uuid));
        shown
    }

    /// Of the device nodes of those that answer, in the driver's order.
    pub fn minors(&self) -> Vec<Option<u32>> {
        let answering = self.gpus.values().filter(|gpu| gpu.standing == Standing::Answers);
        let mut looks: Vec<&GpuLook> = answering.map(|gpu| &gpu.look).collect();
        looks.sort_by_key(|look| (look.index, &look.uuid));
        looks.into_iter().map(|look| look.minor).collect()
    }

    /// The driver's number of a GPU.
    pub fn index_of(&self, uuid: &str) -> Option<u32> {
        self.gpus.get(uuid).map(|gpu| gpu.look.index)
    }

    /// Nothing was heard for too long.
    pub fn fall_silent(&mut self) {
        self.probing = Probing::Silent;
    }

    /// The devices of the node, in the driver's order. One that does not answer, or that
    /// nobody can ask now, takes nothing new; what runs on it is left alone. One that
    /// never said how much memory it has cannot be given to anybody, and is left out.
    pub fn devices(&self) -> Vec<Device> {
        let live = matches!(self.probing, Probing::Live | Probing::Paused);
        let known = self.gpus.values().filter(|gpu| gpu.look.memory_total_bytes > 0);
        let device = |gpu: &Gpu| Device {
            uuid: gpu.look.uuid.clone(),
            index: gpu.look.index,
            model: gpu.look.name.clone(),
            memory: MemoryBytes(gpu.look.memory_total_bytes),
            health: match gpu.standing {
                Standing::Lost => DeviceHealth::Lost,
                Standing::Answers if live && gpu.look.unwell.is_none() && !gpu.look.cut_untold => {
                    DeviceHealth::Healthy
                }
                Standing::Answers
                | Standing::Unanswering
                | Standing::NeedsReset
                | Standing::Absent(_) => DeviceHealth::Cordoned,
            },
            reason: match gpu.standing {
                Standing::Lost => "the driver has lost it".to_owned(),
                _ if !live => self.probing.in_words(),
                Standing::Answers if gpu.look.cut_untold => {
                    "it does not say whether it is cut up (MIG)".to_owned()
                }
                Standing::Answers => gpu.look.unwell.clone().unwrap_or_default(),
                Standing::Unanswering => "it does not answer the driver".to_owned(),
                Standing::NeedsReset => "it has to be reset".to_owned(),
                Standing::Absent(_) => "the driver does not count it any more".to_owned(),
            },
            numa_node: None,
            ways: Vec::new(),
            slice: None,
        };
        let devices = known.flat_map(|gpu| slices::devices(device(gpu), &gpu.look));
        let mut devices: Vec<Device> = devices.collect();
        devices.sort_by(|one, other| (one.index, &one.uuid).cmp(&(other.index, &other.uuid)));
        self.ways.mark(&mut devices);
        devices
    }

    /// What the last look shows of each, by uuid; of use it knows processes only, and of
    /// consent nothing.
    pub fn signs(&self) -> impl Iterator<Item = (&str, Signs)> {
        // While nobody asks there is nothing new.
        let gpus = self.gpus.iter().filter(|_| self.probing != Probing::Paused);
        gpus.map(|(uuid, gpu)| {
            let linked = || self.linked(uuid).filter_map(|other| self.gpus.get(other));
            let are_free = linked().all(|other| self.held(other) == Held::Free);
            let peers = if are_free { Held::Free } else { Held::Held };
            (uuid.as_str(), Signs { peers, ..self.signs_of(gpu) })
        })
    }

    /// Those that a GPU has NVLinks to, straight or through switches: whoever resets it
    /// disturbs them.
    pub fn linked<'a>(&'a self, uuid: &'a str) -> impl Iterator<Item = &'a str> {
        self.ways.linked(uuid)
    }

    /// As far as it depends on nobody else.
    fn signs_of(&self, gpu: &Gpu) -> Signs {
        let live = self.probing == Probing::Live;
        let look = &gpu.look;
        let (presence, tells, recovery) = match gpu.standing {
            Standing::Lost if live => (Presence::Gone, false, None),
            Standing::Answers if live => (Presence::Answers, true, recovery(look)),
            Standing::NeedsReset if live => (Presence::Answers, false, Some(Recovery::Reset)),
            Standing::Answers
            | Standing::NeedsReset
            | Standing::Lost
            | Standing::Unanswering
            | Standing::Absent(_) => (Presence::Unknown, false, None),
        };
        let slowdown = match look.slowed_by() {
            SlowedBy::Heat => Some(Slowdown::Heat),
            SlowedBy::Power => Some(Slowdown::Power),
            SlowedBy::Nothing => None,
        };
        let uncorrected = look.memory_errors.and_then(|errors| errors.uncorrected_volatile);
        Signs {
            presence,
            recovery,
            remap: remap(look).filter(|_| tells),
            slowdown: slowdown.filter(|_| tells),
            uncorrected: uncorrected.filter(|_| tells),
            held: self.held(gpu),
            peers: Held::Free,
            consent: Consent::Open,
            cut: match &look.cut {
                Some(parts) if !parts.slices.is_empty() => Cut::InParts,
                Some(_) | None => Cut::Whole,
            },
        }
    }

    /// Whether a process is on it, as far as the driver says so. One that says nothing any more
    /// but that it has to be reset does not say it: a reset is refused while anybody is on it.
    /// On one that is lost nobody can be.
    fn held(&self, gpu: &Gpu) -> Held {
        let free = match gpu.standing {
            Standing::NeedsReset | Standing::Lost => true,
            Standing::Answers | Standing::Unanswering | Standing::Absent(_) => {
                gpu.look.tells_processes && gpu.look.processes.is_empty()
            }
        };
        if free { Held::Free } else { Held::Held }
    }

    /// What a heartbeat says of them; nothing that is not true right now.
    pub fn samples(&self) -> Vec<DeviceSample> {
        let sample = |gpu: &Gpu| {
            let now = self.probing == Probing::Live && gpu.standing == Standing::Answers;
            let look = &gpu.look;
            DeviceSample {
                uuid: look.uuid.clone(),
                memory_used_bytes: look.memory_used_bytes.filter(|_| now),
                utilization_percent: look.utilization_percent.filter(|_| now),
                temperature_celsius: look
                    .temperature_celsius
                    .filter(|_| now)
                    .and_then(|celsius| i32::try_from(celsius).ok()),
                memory_errors: look.memory_errors.filter(|_| now),
                unwatched: None,
                mps: None,
            }
        };
        let mut gpus: Vec<&Gpu> = self.gpus.values().collect();
        gpus.sort_by_key(|gpu| (gpu.look.index, &gpu.look.uuid));
        gpus.into_iter().flat_map(|gpu| slices::samples(sample(gpu), &gpu.look)).collect()
    }
}

/// With the numbers of NVML.
fn recovery(look: &GpuLook) -> Option<Recovery> {
    match look.recovery? {
        0 => Some(Recovery::Nothing),
        1 => Some(Recovery::Reset),
        2 => Some(Recovery::Reboot),
        3 => Some(Recovery::DrainPeers),
        4 => Some(Recovery::DrainAndReset),
        // Of newer drivers: a reset with its bus, and a reboot.
        6 => Some(Recovery::Reset),
        7 => Some(Recovery::Reboot),
        other => Some(Recovery::Other(other)),
    }
}

fn remap(look: &GpuLook) -> Option<Remap> {
    let errors = look.memory_errors?;
    match (errors.remap_failed, errors.remap_pending) {
        (Some(true), _) => Some(Remap::Failed),
        (_, Some(true)) => Some(Remap::Pending),
        (None, None) => None,
        (Some(false) | None, Some(false) | None) => Some(Remap::Done),
    }
}

#[cfg(test)]
mod tests {
    use DeviceHealth::{Cordoned, Healthy, Lost};

    use super::super::said::Unavailable;
    use super::*;

    fn gpu(index: u32) -> GpuLook {
        GpuLook {
            index,
            uuid: format!("GPU-{index}"),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_total_bytes: 80 << 30,
            memory_used_bytes: Some(7),
            utilization_percent: Some(50),
            ..GpuLook::default()
        }
    }

    fn of(gpus: &[u32]) -> Look {
        Look {
            driver: "570".to_owned(),
            gpus: gpus.iter().copied().map(gpu).collect(),
            ..Look::default()
        }
    }

    /// The healths of GPUs 0 and 1 after these looks, the first of both.
    fn healths(looks: impl IntoIterator<Item = Look>) -> Vec<DeviceHealth> {
        let mut seen = Seen::default();
        seen.hear(Said::Look(of(&[0, 1])));
        looks.into_iter().for_each(|look| seen.hear(Said::Look(look)));
        seen.devices().iter().map(|device| device.health).collect()
    }

    #[test]
    fn only_what_the_driver_says_is_lost_or_is_long_missing_is_lost() {
        let one = vec!["GPU-1".to_owned()];
        let lost = Look { lost: one.clone(), ..of(&[0]) };
        assert_eq!(healths([lost.clone()]), [Healthy, Lost]);
        assert_eq!(healths([lost.clone(), of(&[0])]), [Healthy, Lost], "until it answers");
        assert_eq!(healths([lost, of(&[0, 1])]), [Healthy, Healthy]);
        let unanswering = Look { unanswering: one, ..of(&[0]) };
        assert_eq!(healths(vec![unanswering; 9]), [Healthy, Cordoned]);
        let nameless = Look { nameless: 1, ..of(&[0]) };
        assert_eq!(healths(vec![nameless; 9]), [Healthy, Cordoned], "it may be this one");
        assert_eq!(healths(vec![of(&[0]); 2]), [Healthy, Cordoned]);
        assert_eq!(healths(vec![of(&[0]); 3]), [Healthy, Lost]);
        assert_eq!(healths([of(&[0]), of(&[0, 1]), of(&[0])]), [Healthy, Cordoned]);
        let extra = Look { is_extra: true, ..of(&[0]) };
        assert_eq!(healths(vec![extra; 20]), [Healthy, Cordoned], "all within a second");
        let mut untold = of(&[0, 1]);
        untold.gpus[1].cut_untold = true;
        assert_eq!(healths([untold.clone()]), [Healthy, Healthy], "it was whole before");
        let mut seen = Seen::default();
        seen.hear(Said::Look(untold));
        assert_eq!(seen.devices()[1].health, Cordoned, "it may be cut up");
    }

    #[test]
    fn what_is_not_told_once_was_told_before() {
        let mut seen = Seen::default();
        let shy = GpuLook { memory_total_bytes: 0, name: String::new(), ..gpu(0) };
        let look = |gpu: &GpuLook| Said::Look(Look { gpus: vec![gpu.clone()], ..Look::default() });
        seen.hear(look(&shy));
        assert_eq!(seen.devices(), [], "nobody knows how much of it there is");
        seen.hear(look(&GpuLook { name: String::new(), ..gpu(0) }));
        assert_eq!(seen.devices()[0].model, NAMELESS);
        seen.hear(look(&gpu(0)));
        let told = seen.devices();
        seen.hear(look(&shy));
        assert_eq!(seen.devices(), told);
    }

    #[test]
    fn devices_outlive_a_library_that_does_not_answer_and_take_nothing_new() {
        let mut seen = Seen::default();
        let reason = "no NVIDIA driver is loaded".to_owned();
        let nothing = Unavailable { reason, is_asked_for: false };
        seen.hear(Said::Unavailable(nothing.clone()));
        assert_eq!((seen.devices(), seen.samples()), (Vec::new(), Vec::new()));
        seen.hear(Said::Look(of(&[0])));
        assert_eq!(seen.samples()[0].memory_used_bytes, Some(7));
        let mut silent = seen.clone();
        silent.fall_silent();
        let mut gone = seen.clone();
        gone.hear(Said::Unavailable(nothing));
        let mut remembered = Seen::remembered(seen.to_remember().unwrap());
        for quiet in [&silent, &gone, &remembered] {
            assert_eq!(quiet.devices()[0].health, Cordoned);
            assert_eq!(quiet.samples()[0].memory_used_bytes, None);
        }
        assert_eq!(silent.to_remember(), None);
        remembered.hear(Said::Look(of(&[0])));
        assert_eq!(remembered.devices(), seen.devices());
        remembered.keep_only(&[]);
        assert_eq!(remembered.devices(), []);
    }
}
