//! What engines say of themselves: the few lines that matter of the page of metrics that each of
//! them has, under the names that each of them uses, old and new.
//!
//! What is not said is not known, and never zero: vLLM has stopped to say `gpu_cache_usage_perc`,
//! and routers that went on reading it took every cache for empty.

use berth_routing::Signals;

/// The largest page that is read, in bytes: those of vLLM have some hundred thousand.
pub(crate) const PAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Running,
    Waiting,
    /// Use of the KV cache, 0 to 1.
    Cache,
}

/// A metric that is looked for.
struct Wanted {
    field: Field,
    name: &'static str,
    /// Only of samples that have this label.
    label: Option<&'static str>,
}

const fn wanted(field: Field, name: &'static str) -> Wanted {
    Wanted { field, name, label: None }
}

/// Of the same field the first that is there counts.
const WANTED: [Wanted; 16] = [
    // vLLM, and what it said before 0.10.
    wanted(Field::Running, "vllm:num_requests_running"),
    wanted(Field::Waiting, "vllm:num_requests_waiting"),
    wanted(Field::Cache, "vllm:kv_cache_usage_perc"),
    wanted(Field::Cache, "vllm:gpu_cache_usage_perc"),
    // SGLang, where it was started with --enable-metrics.
    wanted(Field::Running, "sglang:num_running_reqs"),
    wanted(Field::Waiting, "sglang:num_queue_reqs"),
    wanted(Field::Cache, "sglang:token_usage"),
    // Text Generation Inference.
    wanted(Field::Running, "tgi_batch_current_size"),
    wanted(Field::Waiting, "tgi_queue_size"),
    // llama.cpp, where it was started with --metrics.
    wanted(Field::Running, "llamacpp:requests_processing"),
    wanted(Field::Waiting, "llamacpp:requests_deferred"),
    // TensorRT-LLM, by itself and behind Triton.
    wanted(Field::Running, "trtllm_num_requests_running"),
    wanted(Field::Waiting, "trtllm_num_requests_waiting"),
    wanted(Field::Cache, "trtllm_kv_cache_utilization"),
    Wanted {
        field: Field::Cache,
        name: "nv_trt_llm_kv_cache_block_metrics",
        label: Some("kv_cache_block_type=\"fraction\""),
    },
    wanted(Field::Waiting, "nv_inference_pending_request_count"),
];

/// What a page says, and by which names; `None` where it says nothing of this.
pub(crate) fn read(page: &[u8]) -> Option<(Signals, Vec<&'static str>)> {
    let mut sums = [(0.0_f64, 0_u32); WANTED.len()];
    let lines = page.split(|byte| *byte == b'\n');
    // Nearly all lines of a page are of something else.
    let lines = lines.filter(|line| line.first().is_some_and(|first| b"vstln ".contains(first)));
    for line in lines.filter_map(|line| std::str::from_utf8(line).ok()) {
        let Some((place, value)) = sample(line) else { continue };
        sums[place].0 += value;
        sums[place].1 += 1;
    }
    let first = |field| {
        let mut found = WANTED.iter().zip(&sums);
        found.find(|(wanted, (_, count))| wanted.field == field && *count > 0)
    };
    let mut names = Vec::new();
    // An engine has several lines where it has several ranks: their requests are all its own.
    let mut requests = |field| {
        let (wanted, (sum, _)) = first(field)?;
        names.push(wanted.name);
        Some(whole(*sum))
    };
    let (running, waiting) = (requests(Field::Running), requests(Field::Waiting));
    let cache = first(Field::Cache).and_then(|(wanted, (sum, count))| {
        let mean = sum / f64::from(*count);
        names.push(wanted.name);
        // Some say a hundred for the whole; nobody can tell those from what is wrong.
        (mean <= 1.0).then(|| whole(mean * 1_000.0))
    });
    let signals = Signals { running, waiting, kv_milli: cache };
    (signals != Signals::default()).then_some((signals, names))
}

/// The place among what is wanted, and the value, of a line that has both.
fn sample(line: &str) -> Option<(usize, f64)> {
    let line = line.trim_start();
    let end = line.find(|letter: char| letter == '{' || letter.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let place = WANTED.iter().position(|wanted| wanted.name == name)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_at(end_of_labels(rest)?),
        None => ("", rest),
    };
    if WANTED[place].label.is_some_and(|label| !labels.contains(label)) {
        return None;
    }
    // A time may follow, and an example of what was counted.
    let value = rest.trim_start_matches('}').split_ascii_whitespace().next()?;
    let value: f64 = value.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((place, value))
}

/// Where the brace is that ends them: one within quotes does not.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.char_indices().find_map(|(place, letter)| {
        match (letter, is_quoted) {
            _ if is_escaped => is_escaped = false,
            ('\\', true) => is_escaped = true,
            ('"', _) => is_quoted = !is_quoted,
            ('}', false) => return Some(place),
            _ => {}
        }
        None
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is finite and not negative, and too large a number becomes the largest"
)]
fn whole(value: f64) -> u32 {
    value.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page: &str, expected: Option<[Option<u32>; 3]>) {
        let found = read(page.as_bytes());
        let found = found.map(|(signals, _)| [signals.running, signals.waiting, signals.kv_milli]);
        assert_eq!(found, expected, "{page}");
    }

    #[test]
    fn each_engine_is_understood_by_its_own_names() {
        check(
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
             # TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\n\
             vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4.0\n\
             vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 1.0\n\
             vllm:num_requests_waiting{engine=\"1\",model_name=\"m\"} 0.0\n\
             vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.2\n\
             vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 0.4\n",
            Some([Some(7), Some(1), Some(300)]),
        );
        check("vllm:gpu_cache_usage_perc 0.5\n", Some([None, None, Some(500)]));
        check(
            "vllm:gpu_cache_usage_perc 0.0\nvllm:kv_cache_usage_perc 0.25\n",
            Some([None, None, Some(250)]),
        );
        check(
            "sglang:num_running_reqs{model_name=\"m\"} 2\nsglang:num_queue_reqs 5\n\
             sglang:token_usage 0.28\n",
            Some([Some(2), Some(5), Some(280)]),
        );
        check("tgi_batch_current_size 8\ntgi_queue_size 2\n", Some([Some(8), Some(2), None]));
        check(
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n",
            Some([Some(1), Some(0), None]),
        );
        check(
            "nv_inference_pending_request_count{model=\"m\",version=\"1\"} 6\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"used\",model=\"m\"} 120\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"m\"} 0.12\n",
            Some([None, Some(6), Some(120)]),
        );
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        for page in [
            "",
            "\n\n",
            "# EOF\n",
            "go_goroutines 7\n",
            "<html>vllm:num_requests_running</html>",
            "vllm:num_requests_running\n",
            "vllm:num_requests_running NaN\n",
            "vllm:num_requests_running +Inf\n",
            "vllm:num_requests_running -1\n",
            "vllm:num_requests_running_total 4\n",
            "vllm:num_requests_running{model=\"m\" 4\n",
            "vllm:kv_cache_usage_perc 37.5\n",
        ] {
            check(page, None);
        }
    }

    #[test]
    fn labels_times_examples_and_odd_numbers_are_borne() {
        check(
            "vllm:num_requests_running{model_name=\"a}b\\\"} 9\",x=\"\"} 2 1700000000000\n",
            Some([Some(2), None, None]),
        );
        check(
            "vllm:num_requests_waiting 3.0 # {trace_id=\"x\"} 1.0 1700000000.5\r\n",
            Some([None, Some(3), None]),
        );
        check("vllm:num_requests_waiting 1e300\n", Some([None, Some(u32::MAX), None]));
        let odd = b"\xff\xfe vllm\nvllm:num_requests_waiting 1\n";
        assert_eq!(read(odd).unwrap().1, ["vllm:num_requests_waiting"]);
    }

    proptest::proptest! {
        #[test]
        fn no_page_is_too_odd(page: Vec<u8>, names in "[a-z:_{}\"\\\\ 0-9.\n]{0,200}") {
            drop(read(&page));
            let page = format!("vllm:num_requests_running{names}");
            drop(read(page.as_bytes()));
        }
    }
}
