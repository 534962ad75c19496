//! Specifications and claims.

use berth_model::{
    ArraySpec, Artifact, Autoscale, Checksum, Constraints, CpuMilli, Device, DeviceClaim,
    DeviceHealth, DeviceSlice, DeviceWay, DiskBytes, Driver, DurationMs, Gang, GangSeat,
    GpuRequest, HealthCheck, HealthProbe, JobKind, JobSpec, LeftOut, Limits, MemoryBytes, NodeSpec,
    OnFailure, OnReturn, PcieWay, PidGains, Policy, PolicyOrigin, PortClaim, PortRange, Preemption,
    RestartPolicy, Route, RoutingPolicy, ScalingMetric, ScalingPace, ScalingPolicy, ShareMilli,
    Signal, SpecDigest, StopPolicy, TaskSpec, UpdatePolicy,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{labels, name, number, text, texts};

fn span() -> impl Strategy<Value = DurationMs> + Clone {
    number().prop_map(DurationMs)
}

pub(crate) fn kind() -> impl Strategy<Value = JobKind> {
    select(vec![JobKind::Batch, JobKind::Service, JobKind::Daemon])
}

fn preemption() -> impl Strategy<Value = Preemption> {
    let any = (any::<bool>(), any::<bool>(), span());
    any.prop_map(|(preempts, preemptible, min_run)| Preemption { preempts, preemptible, min_run })
}

fn route() -> impl Strategy<Value = Route> {
    let policy = select(RoutingPolicy::ALL.to_vec());
    let waits = (span(), any::<u32>(), option::of(any::<u32>()));
    let any = (option::of(text()), option::of(name()), policy, span(), span(), waits);
    any.prop_map(|(model, port, balance, timeout, drain, waits)| Route {
        model,
        port,
        balance,
        timeout,
        drain,
        wait: waits.0,
        waiting_max: waits.1,
        in_flight_max: waits.2,
    })
}

fn pace() -> impl Strategy<Value = ScalingPace> {
    (span(), any::<u32>(), any::<u32>(), span()).prop_map(|(window, percent, replicas, every)| {
        ScalingPace { window, percent, replicas, every }
    })
}

fn autoscale() -> impl Strategy<Value = Autoscale> {
    let metric = select(ScalingMetric::ALL.to_vec());
    let targets = btree_map(metric, any::<u32>(), 0..4);
    let gains = (any::<u32>(), any::<u32>(), any::<u32>());
    (
        (any::<u32>(), any::<u32>(), select(ScalingPolicy::ALL.to_vec()), targets),
        (any::<u32>(), span(), pace(), pace(), span()),
        (any::<u32>(), option::of(any::<u32>()), gains),
    )
        .prop_map(|(head, body, (step, alpha, gains))| {
            let (min, max, policy, targets) = head;
            let (tolerance, average, up, down, idle) = body;
            let (proportional, integral, derivative) = gains;
            let gains = PidGains { proportional, integral, derivative };
            Autoscale {
                min,
                max,
                policy,
                targets,
                tolerance,
                average,
                up,
                down,
                idle,
                step,
                alpha,
                gains,
            }
        })
}

fn update() -> BoxedStrategy<UpdatePolicy> {
    (option::of(span()), span(), select(OnFailure::ALL.to_vec()))
        .prop_map(|(progress_deadline, min_ready, on_failure)| UpdatePolicy {
            progress_deadline,
            min_ready,
            on_failure,
        })
        .boxed()
}

/// Any specification that the types can hold.
pub(crate) fn job() -> BoxedStrategy<JobSpec> {
    let constraints = (labels(), option::of(name()), option::of(name()))
        .prop_map(|(labels, pool, node)| Constraints { labels, pool, node });
    (
        (name(), name(), kind(), any::<u8>(), select(Policy::ALL.to_vec())),
        (constraints, vec(task(), 0..4), option::of(span()), any::<bool>()),
        (span(), select(OnReturn::ALL.to_vec()), update(), preemption()),
        select(PolicyOrigin::ALL.to_vec()),
        (route(), option::of(autoscale())),
    )
        .prop_map(|(head, body, rest, policy_origin, (route, autoscale))| {
            let (max_disconnect, on_return, update, preemption) = rest;
            let (name, namespace, kind, priority, policy) = head;
            let (constraints, tasks, deadline, exclusive) = body;
            JobSpec {
                name,
                namespace,
                kind,
                priority,
                policy,
                policy_origin,
                constraints,
                tasks,
                deadline,
                max_disconnect,
                on_return,
                update,
                exclusive,
                preemption,
                route,
                autoscale,
            }
        })
        .boxed()
}

fn task() -> BoxedStrategy<TaskSpec> {
    (
        (
            name(),
            driver(),
            texts(),
            labels(),
            option::of(text()),
            vec(artifact(), 0..3),
            any::<u32>(),
            option::of(array()),
        ),
        (
            number(),
            number(),
            any::<(bool, bool)>(),
            limits(),
            option::of(gpu()),
            vec(name(), 0..3),
            any::<bool>(),
        ),
        (stop(), restart(), option::of(health()), option::of(span())),
    )
        .prop_map(|(head, needs, life)| {
            let (name, driver, command, env, workdir, artifacts, count, array) = head;
            let (cpu, memory, left_out, limits, gpu, ports, gang) = needs;
            let (stop, restart, health, time_limit) = life;
            TaskSpec {
                name,
                driver,
                command,
                env,
                workdir,
                artifacts,
                count,
                array,
                gang: gang.then_some(Gang {}),
                cpu: CpuMilli(cpu),
                memory: MemoryBytes(memory),
                left_out: LeftOut { cpu: left_out.0, memory: left_out.1 },
                limits,
                gpu,
                ports,
                stop,
                restart,
                health,
                time_limit,
            }
        })
        .boxed()
}

fn driver() -> impl Strategy<Value = Driver> {
    option::of(text())
        .prop_map(|image| image.map_or(Driver::Exec, |image| Driver::Docker { image }))
}

fn artifact() -> impl Strategy<Value = Artifact> {
    (text(), any::<Option<[u8; 32]>>(), text()).prop_map(|(source, checksum, to)| Artifact {
        source,
        checksum: checksum.map(Checksum),
        to,
    })
}

fn array() -> impl Strategy<Value = ArraySpec> {
    (any::<u32>(), any::<u32>(), any::<Option<u32>>())
        .prop_map(|(start, step, parallel_max)| ArraySpec { start, step, parallel_max })
}

fn limits() -> impl Strategy<Value = Limits> {
    let counts = any::<(Option<u32>, Option<u32>)>();
    (option::of(number()), option::of(number()), counts, option::of(number())).prop_map(
        |(cpu, memory, (processes, open_files), disk)| Limits {
            cpu: cpu.map(CpuMilli),
            memory: memory.map(MemoryBytes),
            processes,
            open_files,
            disk: disk.map(DiskBytes),
        },
    )
}

fn gpu() -> impl Strategy<Value = GpuRequest> {
    (any::<u32>(), texts(), option::of(number()), any::<u32>()).prop_map(
        |(count, models, least, share)| GpuRequest {
            count,
            models,
            memory_min: least.map(MemoryBytes),
            share: ShareMilli(share),
        },
    )
}

fn stop() -> impl Strategy<Value = StopPolicy> {
    (select(Signal::ALL.to_vec()), span()).prop_map(|(signal, grace)| StopPolicy { signal, grace })
}

fn restart() -> impl Strategy<Value = RestartPolicy> {
    (any::<Option<u32>>(), span(), span()).prop_map(|(attempts, backoff, backoff_max)| {
        RestartPolicy { attempts, backoff, backoff_max }
    })
}

fn health() -> impl Strategy<Value = HealthCheck> {
    let probe = prop_oneof![
        (text(), name()).prop_map(|(path, port)| HealthProbe::Http { path, port }),
        name().prop_map(|port| HealthProbe::Tcp { port }),
        texts().prop_map(|command| HealthProbe::Command { command }),
    ];
    (probe, span(), span(), any::<u32>(), span()).prop_map(
        |(probe, interval, timeout, failures, start_period)| HealthCheck {
            probe,
            interval,
            timeout,
            failures,
            start_period,
        },
    )
}

/// Any node specification that the types can hold.
pub(crate) fn node() -> BoxedStrategy<NodeSpec> {
    (
        (labels(), name(), name(), number(), number()),
        (vec(device(), 0..4), any::<u16>(), any::<u16>(), text(), text(), text(), any::<u32>()),
    )
        .prop_map(|(head, body)| {
            let (labels, pool, zone, cpu, memory) = head;
            let (devices, first, last, agent_version, address, docker_version, tasks) = body;
            NodeSpec {
                labels,
                pool,
                zone,
                cpu: CpuMilli(cpu),
                memory: MemoryBytes(memory),
                devices,
                ports: PortRange { first, last },
                agent_version,
                docker_version,
                tasks_per_device_max: tasks,
                address,
            }
        })
        .boxed()
}

fn device() -> impl Strategy<Value = Device> {
    let health = select(vec![
        DeviceHealth::Healthy,
        DeviceHealth::Suspect,
        DeviceHealth::Cordoned,
        DeviceHealth::Fenced,
        DeviceHealth::Lost,
    ]);
    let pcie = select(vec![PcieWay::Unknown, PcieWay::Switch, PcieWay::System]);
    let way = (pcie, any::<u32>()).prop_map(|(pcie, nvlinks)| DeviceWay { pcie, nvlinks });
    let slice = (text(), text()).prop_map(|(parent, profile)| DeviceSlice { parent, profile });
    let place = (option::of(any::<u32>()), vec(way, 0..4), option::of(slice));
    (text(), any::<u32>(), text(), number(), health, text(), place).prop_map(
        |(uuid, index, model, memory, health, reason, (numa_node, ways, slice))| Device {
            uuid,
            index,
            model,
            memory: MemoryBytes(memory),
            health,
            reason,
            numa_node,
            ways,
            slice,
        },
    )
}

pub(crate) fn device_claim() -> impl Strategy<Value = DeviceClaim> {
    (text(), any::<u32>(), number()).prop_map(|(uuid, share, memory)| DeviceClaim {
        uuid,
        share: ShareMilli(share),
        memory: MemoryBytes(memory),
    })
}

pub(crate) fn port_claim() -> impl Strategy<Value = PortClaim> {
    (name(), any::<u16>()).prop_map(|(name, port)| PortClaim { name, port })
}

pub(crate) fn gang_seat() -> impl Strategy<Value = GangSeat> {
    let master = (text(), any::<u16>());
    (any::<[u32; 6]>(), master).prop_map(|(numbers, (master_address, master_port))| {
        let [rank, world_size, node_rank, node_count, local_rank, local_world_size] = numbers;
        GangSeat {
            rank,
            world_size,
            node_rank,
            node_count,
            local_rank,
            local_world_size,
            master_address,
            master_port,
        }
    })
}

pub(crate) fn digest() -> impl Strategy<Value = SpecDigest> {
    any::<[u8; 32]>().prop_map(SpecDigest)
}
