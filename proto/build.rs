//! Compiles every `.proto` below `berth/` without `protoc`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed=berth");
    let mut files = Vec::new();
    collect(&root.join("berth"), &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("calls.rs"), calls(&descriptors))?;
    // Maps in key order: encodings of equal messages are equal bytes, which
    // digests and the log format rely on.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}

/// An enum with a variant for each call, so that a table over all calls is a
/// `match` that a new call breaks.
fn calls(descriptors: &FileDescriptorSet) -> String {
    let mut all = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let variant = format!("{}{}", service.name(), method.name());
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                all.push((variant, path));
            }
        }
    }
    let mut text = String::from(
        "/// A call that a scheduler may be asked for.\n\
         #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]\npub enum Call {\n",
    );
    for (variant, path) in &all {
        let _ = writeln!(text, "    /// `{path}`\n    {variant},");
    }
    let _ = writeln!(text, "}}\n\nimpl Call {{\n    /// Every call.");
    let _ = writeln!(text, "    pub const ALL: [Call; {}] = [", all.len());
    for (variant, _) in &all {
        let _ = writeln!(text, "        Call::{variant},");
    }
    let _ = writeln!(text, "    ];\n\n    /// As in the request line: `/package.Service/Method`.");
    let _ = writeln!(
        text,
        "    #[must_use]\n    pub fn path(self) -> &'static str {{\n        match self {{"
    );
    for (variant, path) in &all {
        let _ = writeln!(text, "            Call::{variant} => \"{path}\",");
    }
    let _ =
        writeln!(text, "        }}\n    }}\n\n    /// The call with this path, if there is one.");
    let _ = writeln!(
        text,
        "    #[must_use]\n    pub fn from_path(path: &str) -> Option<Call> {{\n        match path {{"
    );
    for (variant, path) in &all {
        let _ = writeln!(text, "            \"{path}\" => Some(Call::{variant}),");
    }
    let _ = writeln!(text, "            _ => None,\n        }}\n    }}\n}}");
    text
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
