//! Checks a list of placements against the lists that it was made of. It shares nothing with
//! the code that made it, the reading of the files included: it says whether any node or GPU
//! was given twice, whether anything went where it may not, whether anything was refused that
//! would have fitted, and whether more was moved than is allowed.

use std::collections::{BTreeMap, VecDeque};

/// What is wrong with the placements, a sentence each; empty if nothing is. All three are CSV
/// as `berth sim place` has them.
pub fn check(nodes: &str, arrivals: &str, placements: &str) -> Vec<String> {
    check_with_moves(nodes, arrivals, placements, "", 0)
}

/// The same of a list with moves, of which there are at any moment no more than so many percent
/// of what has been placed. A move is made when what arrives does not fit where it was placed
/// without it; each takes its new place before it gives up the old one.
pub fn check_with_moves(
    nodes: &str,
    arrivals: &str,
    placements: &str,
    moves: &str,
    moved_percent_max: u64,
) -> Vec<String> {
    let mut cluster: BTreeMap<String, Left> = BTreeMap::new();
    let mut names = Vec::new();
    for row in rows(nodes) {
        let gpus = vec![1000; row.number("gpu") as usize];
        let (cpu, memory) = (row.number("cpu_milli"), row.number("memory_mib"));
        let model = row.text("model").to_owned();
        names.push(row.text("sn").to_owned());
        cluster.insert(row.text("sn").to_owned(), Left { cpu, memory, model, gpus });
    }
    let placed: BTreeMap<String, (String, Vec<usize>)> = rows(placements)
        .map(|row| {
            let gpus = row.text("gpus").split('-').filter(|text| !text.is_empty());
            let gpus = gpus.map(|text| text.parse().expect("an index")).collect();
            (row.text("seq").to_owned(), (row.text("node").to_owned(), gpus))
        })
        .collect();
    let mut moves: VecDeque<Row> = rows(moves).collect();
    let (mut here, mut moved) = (BTreeMap::new(), 0);
    let mut wrong = Vec::new();
    let mut count = 0;
    for task in rows(arrivals) {
        count += 1;
        let seq = task.text("seq").to_owned();
        let Some((node, gpus)) = placed.get(&seq) else {
            wrong.push(format!("{seq} is missing"));
            continue;
        };
        if node.is_empty() {
            if let Some(free) = names.iter().find(|name| cluster[*name].has_room(&task)) {
                wrong.push(format!("{seq} was refused though {free} has room"));
            }
            continue;
        }
        while cluster.get(node).is_some_and(|left| left.clone().take(&task, gpus).is_some()) {
            let Some(one) = moves.pop_front() else { break };
            moved += 1;
            if moved * 100 > here.len() as u64 * moved_percent_max {
                wrong.push(format!("{moved} were moved of {} placed", here.len()));
            }
            wrong.extend(make(&one, &mut cluster, &mut here));
        }
        match cluster.get_mut(node) {
            None => wrong.push(format!("{seq} is on `{node}`, which there is not")),
            Some(left) => wrong.extend(left.take(&task, gpus).map(|what| format!("{seq}: {what}"))),
        }
        here.insert(seq, (node.clone(), gpus.clone(), task));
    }
    if !moves.is_empty() {
        wrong.push(format!("{} moves made room for nothing", moves.len()));
    }
    if placed.len() != count {
        wrong.push(format!("{} placements of {count} tasks", placed.len()));
    }
    wrong
}

/// Where each task is that was placed, and what it asks for.
type Here<'a> = BTreeMap<String, (String, Vec<usize>, Row<'a>)>;

/// Makes a move; says what is wrong with it.
fn make(one: &Row, cluster: &mut BTreeMap<String, Left>, here: &mut Here<'_>) -> Option<String> {
    let (seq, to) = (one.text("seq"), one.text("to"));
    let Some((node, gpus, task)) = here.get_mut(seq) else {
        return Some(format!("{seq} was moved and is nowhere"));
    };
    if one.text("name") != task.text("name") || one.text("from") != node {
        return Some(format!("{seq} is {} and on {node}", task.text("name")));
    }
    let given: Option<Vec<usize>> = one
        .text("gpus")
        .split('-')
        .filter(|text| !text.is_empty())
        .map(|at| at.parse().ok())
        .collect();
    let (Some(given), Some(there)) = (given, cluster.get_mut(to)) else {
        return Some(format!("{seq} cannot be moved to {to}"));
    };
    if let Some(what) = there.take(task, &given) {
        return Some(format!("{seq} moved to {to}: {what}"));
    }
    if let Some(left) = cluster.get_mut(node.as_str()) {
        left.give_back(task, gpus);
    }
    (*node, *gpus) = (to.to_owned(), given);
    None
}

/// What is left of a node.
#[derive(Clone)]
struct Left {
    cpu: u64,
    memory: u64,
    model: String,
    gpus: Vec<u64>,
}

impl Left {
    fn accepts(&self, task: &Row) -> bool {
        let models = task.text("gpu_spec");
        task.number("num_gpu") == 0
            || models.is_empty()
            || models.split('|').any(|model| model == self.model)
    }

    fn has_room(&self, task: &Row) -> bool {
        let (count, share) = (task.number("num_gpu"), task.number("gpu_milli"));
        let fitting = self.gpus.iter().filter(|left| **left >= share).count() as u64;
        self.accepts(task)
            && self.cpu >= task.number("cpu_milli")
            && self.memory >= task.number("memory_mib")
            && (count == 0 || fitting >= count)
    }

    /// Takes what the task was given; says what is wrong with that.
    fn take(&mut self, task: &Row, gpus: &[usize]) -> Option<String> {
        let (cpu, memory) = (task.number("cpu_milli"), task.number("memory_mib"));
        if !self.accepts(task) {
            return Some(format!("its node has GPUs of model {}", self.model));
        }
        if cpu > self.cpu || memory > self.memory {
            return Some("its node has too little processor or memory left".to_owned());
        }
        self.cpu -= cpu;
        self.memory -= memory;
        let mut distinct = gpus.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() as u64 != task.number("num_gpu") || distinct.len() != gpus.len() {
            return Some(format!("it was given the GPUs {gpus:?}"));
        }
        let share = task.number("gpu_milli");
        for gpu in gpus {
            match self.gpus.get_mut(*gpu) {
                Some(left) if *left >= share => *left -= share,
                Some(left) => return Some(format!("GPU {gpu} has {left} thousandths left")),
                None => return Some(format!("there is no GPU {gpu}")),
            }
        }
        None
    }
}

impl Left {
    fn give_back(&mut self, task: &Row, gpus: &[usize]) {
        self.cpu += task.number("cpu_milli");
        self.memory += task.number("memory_mib");
        gpus.iter().for_each(|gpu| self.gpus[*gpu] += task.number("gpu_milli"));
    }
}

/// A line of a list, by the names of the columns.
struct Row<'a> {
    columns: Vec<&'a str>,
    values: Vec<&'a str>,
}

fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
    lines.map(move |line| Row { columns: columns.clone(), values: line.split(',').collect() })
}

impl Row<'_> {
    fn text(&self, column: &str) -> &str {
        let at = self.columns.iter().position(|name| *name == column);
        at.and_then(|at| self.values.get(at)).copied().unwrap_or("")
    }

    fn number(&self, column: &str) -> u64 {
        self.text(column).parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\na,4000,100,2,L4\nb,4000,100,0,\n";
    const TASKS: &str = "seq,name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
                         0,x,1000,10,1,600,\n1,y,1000,10,1,400,L4\n2,z,1000,10,2,1000,\n";

    #[test]
    fn what_is_wrong_is_found() {
        let check = |placements: &str, expected: &[&str]| {
            let placements = format!("seq,node,gpus\n{placements}");
            assert_eq!(super::check(NODES, TASKS, &placements), expected, "{placements}");
        };
        check("0,a,0\n1,a,0\n2,,\n", &[]);
        check("0,a,0\n1,a,1\n2,,\n", &[]);
        check("0,a,1\n1,,\n2,,\n", &["1 was refused though a has room"]);
        check("0,a,0\n1,a,0\n", &["2 is missing", "2 placements of 3 tasks"]);
        check("0,a,0\n1,b,0\n2,,\n", &["1: its node has GPUs of model "]);
        check("0,a,0\n1,a,0\n2,a,0-1\n", &["2: GPU 0 has 0 thousandths left"]);
        check("0,a,0\n1,a,0\n2,a,1-1\n", &["2: it was given the GPUs [1, 1]"]);
        check("0,a,2\n1,a,0\n2,,\n", &["0: there is no GPU 2"]);
        check("0,c,0\n1,a,0\n2,,\n", &["0 is on `c`, which there is not"]);
    }

    #[test]
    fn what_is_wrong_with_moves_is_found() {
        // What is placed third needs the whole of a, for which the second leaves it.
        const TASKS: &str = "seq,name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
                             0,x,1000,10,1,600,\n1,y,1000,10,1,400,L4\n2,z,1000,10,1,1000,\n";
        const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\na,4000,100,1,L4\nb,4000,100,1,L4\n";
        let check = |moves: &str, percent: u64, expected: &[&str]| {
            let placements = "seq,node,gpus\n0,a,0\n1,b,0\n2,b,0\n";
            let moves = format!("seq,name,from,to,gpus\n{moves}");
            let found = super::check_with_moves(NODES, TASKS, placements, &moves, percent);
            assert_eq!(found, expected, "{moves}");
        };
        let full = "2: GPU 0 has 600 thousandths left";
        check("1,y,b,a,0\n", 50, &[]);
        check("1,y,b,a,0\n", 49, &["1 were moved of 2 placed"]);
        check("", 50, &[full]);
        check("1,x,b,a,0\n", 50, &["1 is y and on b", full]);
        check("1,y,a,a,0\n", 50, &["1 is y and on b", full]);
        check("3,y,b,a,0\n", 50, &["3 was moved and is nowhere", full]);
        check("1,y,b,c,0\n", 50, &["1 cannot be moved to c", full]);
        check("0,x,a,b,0\n", 50, &["2: GPU 0 has 0 thousandths left"]);
        check("1,y,b,a,0\n0,x,a,b,0\n", 50, &["1 moves made room for nothing"]);
    }
}
