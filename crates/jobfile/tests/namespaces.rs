//! Files of namespaces: what is taken, and what is refused in which words.

use berth_jobfile::{Syntax, parse_namespace};
use berth_model::{Bounds, Guarantee, Limit, LimitRange, NamespaceSpec, Resource};

const WHOLE: &str = "name = \"research\"\ndescription = \"models\"\n[quota.limit]\ngpus = 7.5\n\
                     gpu_memory = \"640GiB\"\ncpu = \"500m\"\nmemory = \"1TiB\"\n\
                     running_tasks = 100\nqueued_jobs = 1000\nsubmits_per_second = 50\n";

fn read(file_name: &str, text: &str) -> Result<NamespaceSpec, String> {
    let syntax = Syntax::of_path(file_name.as_ref());
    parse_namespace(file_name, syntax, text.as_bytes()).map_err(|refused| refused.to_string())
}

#[test]
fn a_namespace_is_the_same_in_every_syntax() {
    let spec = read("research.toml", WHOLE).expect("it is as it should be");
    let Limit { amounts, submits_per_second } = &spec.quota.limit;
    let amounts: Vec<(Resource, u64)> = amounts.iter().map(|(one, most)| (*one, *most)).collect();
    let expected = [
        (Resource::Gpus, 7_500),
        (Resource::GpuMemory, 640 << 30),
        (Resource::Cpu, 500),
        (Resource::Memory, 1 << 40),
        (Resource::RunningTasks, 100),
        (Resource::QueuedJobs, 1_000),
    ];
    assert_eq!(amounts, expected);
    assert_eq!(submits_per_second.map(u32::from), Some(50));
    assert_eq!((spec.name.as_str(), spec.description.as_str()), ("research", "models"));
    let yaml = "name: research\ndescription: models\nquota:\n  limit:\n    gpus: 7.5\n    \
                gpu_memory: 640GiB\n    cpu: 500m\n    memory: 1TiB\n    running_tasks: 100\n    \
                queued_jobs: 1000\n    submits_per_second: 50\n";
    assert_eq!(read("research.yaml", yaml), Ok(spec.clone()));
    let json = r#"{"name": "research", "description": "models", "quota": {"limit": {"gpus": 7.5,
        "gpu_memory": "640GiB", "cpu": "500m", "memory": "1TiB", "running_tasks": 100,
        "queued_jobs": 1000, "submits_per_second": 50}}}"#;
    assert_eq!(read("research.json", json), Ok(spec));
    let heavy = read("a.toml", "name = \"a\"\nweight = 30\n").expect("it is as it should be");
    assert_eq!(heavy.weight, 30);
    let nothing = read("research.toml", "name = \"research\"\n").expect("it has no limits");
    assert_eq!(nothing.weight, NamespaceSpec::WEIGHT_DEFAULT);
    assert!(nothing.quota.limit.is_empty());
}

#[test]
fn what_is_guaranteed_stands_beside_the_limit() {
    let text = "name = \"a\"\n[quota.limit]\ngpus = 8\n[quota.guaranteed]\ngpus = 7.5\n\
                cpu = \"500m\"\nmemory = \"1TiB\"\ngpu_memory = \"640GiB\"\n";
    let quota = read("a.toml", text).expect("it is as it should be").quota;
    let expected = [
        (Resource::Gpus, 7_500),
        (Resource::GpuMemory, 640 << 30),
        (Resource::Cpu, 500),
        (Resource::Memory, 1 << 40),
    ];
    assert_eq!(quota.guaranteed, Guarantee { amounts: expected.into() });
    assert_eq!(quota.limit.amounts, [(Resource::Gpus, 8_000)].into());
}

#[test]
fn bounds_are_read_with_the_units_of_what_they_bound() {
    let text = "name = \"a\"\n[range.cpu]\ndefault = 2\nmin = \"500m\"\nmax = 64\n\
                [range.gpus]\ndefault = 0.5\nmax = 4\n[range.gpu_memory]\nmax = \"40GiB\"\n";
    let range = read("a.toml", text).expect("it is as it should be").range;
    let bounds = |default, min, max| Bounds { default, min, max };
    let expected = [
        (Resource::Gpus, bounds(Some(500), None, Some(4000))),
        (Resource::GpuMemory, bounds(None, None, Some(40 << 30))),
        (Resource::Cpu, bounds(Some(2000), Some(500), Some(64_000))),
    ];
    assert_eq!(range, LimitRange(expected.into()));
}

#[test]
fn what_is_no_namespace_is_refused_with_its_place() {
    let check = |text: &str, expected: &str| {
        let refused = read("n.toml", text).expect_err(text);
        assert_eq!(refused.lines().next(), Some(expected), "{text}");
    };
    check("", "n.toml: there is no namespace in the file");
    check("quota = {}\n", "n.toml:1:1: name: `name` is missing");
    check("name = \"a\"\ngpus = 8\n", "n.toml:2:1: gpus: unknown key `gpus` in a namespace");
    check(
        "name = \"a\"\n[quota]\ngpus = 8\n",
        "n.toml:3:1: quota.gpus: unknown key `gpus` in `quota`",
    );
    check("name = \"a\"\nweight = 0\n", "n.toml:2:10: weight: expected 1 to 1000, found 0");
    let limit = |line: &str| format!("name = \"a\"\n[quota.limit]\n{line}\n");
    check(&limit("gpu = 8"), "n.toml:3:1: quota.limit.gpu: unknown key `gpu` in `quota.limit`");
    check(&limit("gpus = -1"), "n.toml:3:8: quota.limit.gpus: expected 0 to 1000000, found -1");
    check(
        &limit("gpus = 0.1234"),
        "n.toml:3:8: quota.limit.gpus: expected GPUs from 0 to 1000000, of at most three decimals, \
         found 0.1234",
    );
    check(
        &limit("memory = \"8\""),
        "n.toml:3:10: quota.limit.memory: `8` has no unit (did you mean `8GiB`?); expected a size \
         such as 512MiB, 32GiB (binary) or 80GB (decimal), at most 1PiB",
    );
    check(
        &limit("submits_per_second = 0"),
        "n.toml:3:22: quota.limit.submits_per_second: expected 1 to 4294967295, found 0",
    );
    check(
        "name = \"a\"\n[quota.guaranteed]\nrunning_tasks = 8\n",
        "n.toml:3:1: quota.guaranteed.running_tasks: unknown key `running_tasks` in \
         `quota.guaranteed`",
    );
    check(
        "name = \"a\"\n[quota]\nlimit = { gpus = 4 }\nguaranteed = { gpus = 4.5 }\n",
        "n.toml:4:23: quota.guaranteed.gpus: expected at most the limit of 4, found 4.5",
    );
    let range = |lines: &str| format!("name = \"a\"\n[range.cpu]\n{lines}\n");
    check(
        &range("maximum = 4"),
        "n.toml:3:1: range.cpu.maximum: unknown key `maximum` in `range.cpu`",
    );
    check(&range(""), "n.toml:2:1: range.cpu: says nothing");
    check(&range("min = 4\nmax = 2"), "n.toml:3:7: range.cpu.min: 4 is above 2");
    check(
        "name = \"a\"\n[range.running_tasks]\nmax = 1\n",
        "n.toml:2:8: range.running_tasks: unknown key `running_tasks` in `range`",
    );
    let long = format!("name = \"a\"\ndescription = \"{}\"\n", "x".repeat(1025));
    check(&long, "n.toml:2:15: description: expected at most 1024 bytes, found 1025");
}
