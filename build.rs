//! Two duties, both about the C ABI: how the shared library is linked, and that `include/alta_auth.h` says what
//! `src/ffi` does.
//!
//! Exports are not restricted here: rustc gives a cdylib a version script of its own that exports the
//! `#[no_mangle]` functions and hides all else, and a second script is an error for GNU ld and a union for lld.
//! `tests/linking.rs` holds the result against the committed list.
//!
//! The header is generated in the repository only. A published package carries the header and not `cbindgen.toml`,
//! so who depends on the package never has a file of it rewritten. A tree that cannot be written is not an
//! error: the committed header is what is installed, and `tests/header.rs` fails when it is stale.

use std::path::{Path, PathBuf};
use std::{env, fs};

const HEADER: &str = "include/alta_auth.h";
const CBINDGEN: &str = "cbindgen.toml";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    link_shared_library();
    if Path::new(CBINDGEN).exists() {
        keep_header();
    }
}

fn link_shared_library() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // The ABI's number, not the version's: it moves when a program compiled earlier would no longer work.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libalta_auth.so.0");
    // Threads of the library run its code; after a dlclose that unmaps it they would run nothing.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

/// Generates the header, into `OUT_DIR` always and into the tree if it differs.
fn keep_header() {
    println!("cargo:rerun-if-changed={CBINDGEN}");
    let sources = ffi_sources();
    if sources.is_empty() {
        println!("cargo:rerun-if-changed=src");
        return;
    }
    for watched in ["src/ffi.rs", "src/ffi", HEADER] {
        if Path::new(watched).exists() {
            println!("cargo:rerun-if-changed={watched}");
        }
    }
    let header = match generate(&sources) {
        Ok(header) => header,
        // A source that cbindgen cannot read is one that rustc reports better.
        Err(error) => {
            println!("cargo:warning={HEADER} not generated: {error}");
            return;
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    fs::write(out.join("alta_auth.h"), &header).expect("OUT_DIR can be written");
    if fs::read(HEADER).is_ok_and(|committed| committed == header) {
        return;
    }
    let written = fs::create_dir_all("include").and_then(|()| fs::write(HEADER, &header));
    if let Err(error) = written {
        println!("cargo:warning={HEADER} is stale and cannot be written: {error}");
    }
}

/// `src/ffi.rs` first, then the files of `src/ffi/` by name: the order of the header.
fn ffi_sources() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir("src/ffi")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    let root = PathBuf::from("src/ffi.rs");
    if root.exists() {
        files.insert(0, root);
    }
    files
}

/// Each file is read by itself, so that cbindgen neither runs cargo nor sees the rest of the crate.
fn generate(sources: &[PathBuf]) -> Result<Vec<u8>, cbindgen::Error> {
    let mut config = cbindgen::Config::from_file(CBINDGEN).expect("cbindgen.toml is read by its own reader");
    let version =
        |part: &str| env::var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets the version's parts");
    let versions = format!(
        "#define ALTA_AUTH_VERSION_MAJOR {}\n#define ALTA_AUTH_VERSION_MINOR {}\n#define ALTA_AUTH_VERSION_PATCH {}",
        version("MAJOR"),
        version("MINOR"),
        version("PATCH"),
    );
    config.after_includes = config.after_includes.map(|text| text.replace("@VERSION@", &versions));
    let builder =
        sources.iter().fold(cbindgen::Builder::new().with_config(config), cbindgen::Builder::with_src);
    let mut header = Vec::new();
    builder.generate()?.write(&mut header);
    Ok(header)
}
