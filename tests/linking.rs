//! The library as a linker, a loader and a package see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod toolchain;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use toolchain::{ROOT, WARNINGS, command, library_directory, read, succeed, words};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn dynamic_section() -> String {
    succeed(command("readelf", ["--dynamic", "--wide"]).arg(library_directory().join("libalta_auth.so")))
}

#[test]
fn the_soname_counts_the_abi() {
    let section = dynamic_section();
    assert!(section.contains("Library soname: [libalta_auth.so.0]"), "{section}");
}

#[test]
fn dlclose_does_not_unmap_code_that_threads_run() {
    let section = dynamic_section();
    let flags = section.lines().find(|line| line.contains("(FLAGS_1)")).unwrap_or_default();
    assert!(flags.contains("NODELETE"), "{section}");
}

#[test]
fn nothing_is_needed_beyond_the_c_library() {
    for line in dynamic_section().lines().filter(|line| line.contains("(NEEDED)")) {
        let name = line.split(['[', ']']).nth(1).unwrap();
        let known =
            ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].contains(&name) || name.starts_with("ld-linux");
        assert!(known, "{name} is needed");
    }
}

#[test]
fn exactly_the_listed_functions_are_exported() {
    let output = succeed(
        command("nm", ["--dynamic", "--defined-only", "--format=posix"])
            .arg(library_directory().join("libalta_auth.so")),
    );
    let exported: BTreeSet<&str> = output.lines().filter_map(|line| line.split(' ').next()).collect();
    let list = read("tests/symbols.txt");
    let listed: BTreeSet<&str> = list.lines().collect();
    let unlisted: Vec<_> = exported.difference(&listed).collect();
    assert!(unlisted.is_empty(), "exported, but not in tests/symbols.txt: {unlisted:?}");
    let missing: Vec<_> = listed.difference(&exported).collect();
    assert!(missing.is_empty(), "in tests/symbols.txt, but not exported: {missing:?}");
}

#[test]
fn the_header_declares_exactly_the_listed_functions() {
    let header = read("include/alta_auth.h");
    let list = read("tests/symbols.txt");
    for name in list.lines() {
        assert!(header.contains(&format!("{name}(")), "{name} is not declared");
    }
    let declared =
        header.lines().filter(|line| line.contains("alta_auth_") && !line.starts_with([' ', '/', '#']));
    let functions: BTreeSet<&str> = declared
        .filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("alta_auth_") && header.contains(&format!("{name}(")))
        .collect();
    let unlisted: Vec<_> = functions.iter().filter(|name| !list.lines().any(|line| line == **name)).collect();
    assert_eq!(unlisted, [&"alta_auth_str_of"], "declared, but not in tests/symbols.txt");
}

#[test]
fn macro_function_and_package_have_one_version() {
    let source = r#"
        #include <alta_auth.h>
        #include <stdio.h>
        int main(void) {
            printf("%d.%d.%d %d %u %s", ALTA_AUTH_VERSION_MAJOR, ALTA_AUTH_VERSION_MINOR, ALTA_AUTH_VERSION_PATCH,
                   ALTA_AUTH_VERSION_NUMBER, (unsigned)alta_auth_version_number(), alta_auth_version());
            return 0;
        }"#;
    let installed = Installed::new();
    let flags = installed.pkg_config(&["--cflags", "--libs"]);
    let printed = succeed(
        Command::new(installed.build(source, "cc", &words(&flags)))
            .env("LD_LIBRARY_PATH", installed.libraries()),
    );
    let parts: Vec<u32> = VERSION.split('.').map(|part| part.parse().unwrap()).collect();
    let number = (parts[0] << 16) | (parts[1] << 8) | parts[2];
    assert_eq!(printed, format!("{VERSION} {number} {number} {VERSION}"));
}

#[test]
fn the_development_package_needs_the_library_of_its_version() {
    assert!(read("Cargo.toml").contains(&format!("libalta-auth0 (= {VERSION}-1)")));
}

/// `make install` into a directory, as a package is made.
struct Installed {
    directory: TempDir,
}

impl Installed {
    const LIBDIR: &'static str = "/usr/lib/test-linux-gnu";

    fn new() -> Self {
        let installed = Self { directory: tempfile::tempdir().unwrap() };
        installed.make("install");
        installed
    }

    fn make(&self, target: &str) {
        succeed(
            command("make", ["--silent", "-f", "packaging/install.mk", target, "PREFIX=/usr"])
                .current_dir(ROOT)
                .env_remove("MAKEFLAGS")
                .arg(format!("LIBDIR={}", Self::LIBDIR))
                .arg(format!("DESTDIR={}", self.directory.path().display()))
                .arg(format!("ALTA_LIB_DIR={}", library_directory().display())),
        );
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.directory.path().join(absolute.trim_start_matches('/'))
    }

    fn libraries(&self) -> PathBuf {
        self.path(Self::LIBDIR)
    }

    fn pkg_config(&self, args: &[&str]) -> String {
        succeed(
            command("pkg-config", args)
                .arg("alta_auth")
                .env("PKG_CONFIG_PATH", self.libraries().join("pkgconfig"))
                .env("PKG_CONFIG_SYSROOT_DIR", self.directory.path()),
        )
    }

    fn build(&self, source: &str, compiler: &str, flags: &[&str]) -> PathBuf {
        let (file, program) = (self.path("program.c"), self.path("program"));
        std::fs::write(&file, source).unwrap();
        succeed(command(compiler, WARNINGS).arg("-std=c11").arg(&file).arg("-o").arg(&program).args(flags));
        program
    }

    /// Every file and link, with what a link points to.
    fn files(&self) -> BTreeSet<String> {
        fn walk(root: &Path, directory: &Path, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                let name = path.strip_prefix(root).unwrap().display().to_string();
                if kind.is_dir() {
                    walk(root, &path, found);
                } else if kind.is_symlink() {
                    found.insert(format!("{name} -> {}", std::fs::read_link(&path).unwrap().display()));
                } else {
                    found.insert(name);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(self.directory.path(), self.directory.path(), &mut found);
        found
    }
}

#[test]
fn install_puts_these_files_and_uninstall_removes_them() {
    let installed = Installed::new();
    let expected: BTreeSet<String> = [
        "usr/include/alta_auth.h".to_owned(),
        "usr/include/alta_auth.hpp".to_owned(),
        "usr/lib/test-linux-gnu/cmake/alta_auth/alta_auth-config-version.cmake".to_owned(),
        "usr/lib/test-linux-gnu/cmake/alta_auth/alta_auth-config.cmake".to_owned(),
        "usr/lib/test-linux-gnu/libalta_auth.a".to_owned(),
        "usr/lib/test-linux-gnu/libalta_auth.so -> libalta_auth.so.0".to_owned(),
        format!("usr/lib/test-linux-gnu/libalta_auth.so.0 -> libalta_auth.so.{VERSION}"),
        format!("usr/lib/test-linux-gnu/libalta_auth.so.{VERSION}"),
        "usr/lib/test-linux-gnu/pkgconfig/alta_auth.pc".to_owned(),
    ]
    .into();
    assert_eq!(installed.files(), expected);
    assert_eq!(installed.pkg_config(&["--modversion"]).trim(), VERSION);
    installed.make("uninstall");
    assert_eq!(installed.files(), BTreeSet::new());
}

/// Where cargo is told to build elsewhere, what lies in the usual place is not what it has built.
#[test]
fn install_takes_what_cargo_has_just_built_wherever_it_is_told_to_build() {
    let rustc = succeed(&mut command("rustc", ["-vV"]));
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().to_str().unwrap();
    for (variable, value) in
        [("CARGO_TARGET_DIR", elsewhere), ("CARGO_BUILD_TARGET_DIR", elsewhere), ("CARGO_BUILD_TARGET", host)]
    {
        let tree = Tree::new();
        let installed =
            tree.install(&[(variable, value)]).unwrap_or_else(|said| panic!("{variable}: {said}"));
        for (name, magic) in
            [(format!("libalta_auth.so.{VERSION}"), "\x7fELF"), ("libalta_auth.a".to_owned(), "!<arch>\n")]
        {
            let library = std::fs::read(installed.join(&name)).unwrap();
            assert!(library.starts_with(magic.as_bytes()), "{variable}: {name} was there before");
        }
    }
    // What only cargo's configuration says is not for make to know.
    let tree = Tree::new();
    std::fs::create_dir(tree.0.path().join(".cargo")).unwrap();
    let config = format!("[build]\ntarget = \"{host}\"\n");
    std::fs::write(tree.0.path().join(".cargo/config.toml"), config).unwrap();
    let said = tree.install(&[]).unwrap_err();
    assert!(said.contains("give its directory as ALTA_LIB_DIR"), "{said}");
}

/// As the tree of the library, but quickly built, and with libraries of another time in it.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["packaging", "include", "src", "target/release"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        for name in [
            "packaging/install.mk",
            "packaging/alta_auth.pc.in",
            "packaging/alta_auth-config.cmake.in",
            "packaging/alta_auth-config-version.cmake.in",
            "include/alta_auth.h",
            "include/alta_auth.hpp",
        ] {
            std::fs::write(at(name), read(name)).unwrap();
        }
        let package = format!("name = \"alta_auth\"\nversion = \"{VERSION}\"\n");
        let manifest = format!(
            "[package]\n{package}edition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\", \"staticlib\"]\n"
        );
        std::fs::write(at("Cargo.toml"), manifest).unwrap();
        std::fs::write(at("Cargo.lock"), format!("version = 4\n\n[[package]]\n{package}")).unwrap();
        std::fs::write(at("src/lib.rs"), "").unwrap();
        for name in ["libalta_auth.so", "libalta_auth.a"] {
            std::fs::write(at("target/release").join(name), "of another time").unwrap();
        }
        Self(directory)
    }

    /// Where the libraries are then; or what was said.
    fn install(&self, environment: &[(&str, &str)]) -> Result<PathBuf, String> {
        let stage = self.0.path().join("stage");
        let output = command("make", ["--silent", "-f", "packaging/install.mk", "install", "PREFIX=/usr"])
            .current_dir(self.0.path())
            .env_remove("MAKEFLAGS")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_BUILD_TARGET_DIR")
            .env_remove("CARGO_BUILD_TARGET")
            .envs(environment.iter().copied())
            .arg(format!("DESTDIR={}", stage.display()))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() { Ok(stage.join("usr/lib")) } else { Err(said) }
    }
}

/// Debian's `su` leaves the PATH of whoever was there before.
#[test]
fn install_finds_ldconfig_without_sbin_in_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let id = directory.path().join("id");
    std::fs::write(&id, "#!/bin/sh\necho 0\n").unwrap();
    std::fs::set_permissions(&id, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let steps = succeed(
        command(
            "make",
            [
                "--dry-run",
                "--no-print-directory",
                "-f",
                "packaging/install.mk",
                "install",
                "ALTA_LIB_DIR=target/release",
            ],
        )
        .current_dir(ROOT)
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .env("PATH", &path),
    );
    let last = steps.trim_end().lines().last().unwrap();
    assert!(last.ends_with("ldconfig"), "{steps}");
    // With this it changes nothing.
    succeed(command("sh", ["-c", &format!("{last} --version")]).env("PATH", &path));
}

/// Nothing listens at the backend of the example, and its default action is to deny.
const REFUSED: &str = "viewer-1: refuse\n";

#[test]
fn minimal_links_with_the_installed_library() {
    let installed = Installed::new();
    let flags = installed.pkg_config(&["--cflags", "--libs"]);
    for compiler in ["gcc", "clang"] {
        let program = installed.build(&unreachable_minimal(), compiler, &words(&flags));
        assert_eq!(succeed(Command::new(program).env("LD_LIBRARY_PATH", installed.libraries())), REFUSED);
    }
}

#[test]
fn minimal_links_with_the_archive() {
    let installed = Installed::new();
    let archive = installed.pkg_config(&["--variable=archive"]);
    // pkg-config leaves a variable as it is, or puts the sysroot before it, depending on which one it is.
    let archive =
        installed.path(archive.trim().trim_start_matches(&installed.directory.path().display().to_string()));
    let cflags = installed.pkg_config(&["--cflags"]);
    let libs = installed.pkg_config(&["--static", "--libs-only-l"]);
    let mut flags = words(&cflags);
    flags.push(archive.to_str().unwrap());
    flags.extend(words(&libs).into_iter().filter(|word| *word != "-lalta_auth"));
    let program = installed.build(&unreachable_minimal(), "cc", &flags);
    let needed = succeed(command("readelf", ["--dynamic"]).arg(&program));
    assert!(!needed.contains("libalta_auth"), "{needed}");
    assert_eq!(succeed(&mut Command::new(program)), REFUSED);
}

#[test]
fn minimal_links_without_any_shared_library() {
    let installed = Installed::new();
    let flags = installed.pkg_config(&["--static", "--cflags", "--libs"]);
    let mut flags = words(&flags);
    flags.push("-static");
    let program = installed.build(&unreachable_minimal(), "cc", &flags);
    assert_eq!(succeed(&mut Command::new(program)), REFUSED);
}

/// Two parts: the list is rustc's for the standard library, and the tests above link the archive with no more.
#[test]
fn libs_private_is_what_rustc_says_and_the_compiler_does_not_add() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("empty.rs");
    std::fs::write(&source, "").unwrap();
    let output = command("rustc", ["--crate-type", "staticlib", "--print", "native-static-libs"])
        .arg(&source)
        .arg("--out-dir")
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, list) = said.split_once("native-static-libs: ").unwrap_or_else(|| panic!("{said}"));
    let rustc: BTreeSet<&str> = words(list.lines().next().unwrap())
        .into_iter()
        .filter(|word| !["-lgcc_s", "-lc"].contains(word))
        .collect();
    let installed = Installed::new();
    let file = std::fs::read_to_string(installed.libraries().join("pkgconfig/alta_auth.pc")).unwrap();
    let private = file.lines().find_map(|line| line.strip_prefix("Libs.private: ")).unwrap();
    assert_eq!(words(private).into_iter().collect::<BTreeSet<_>>(), rustc);
}

#[test]
fn cmake_finds_both_libraries_where_they_were_installed() {
    let installed = Installed::new();
    std::fs::write(installed.path("minimal.c"), unreachable_minimal()).unwrap();
    let lists = "cmake_minimum_required(VERSION 3.13)\nproject(minimal C)\n\
                 find_package(alta_auth 0.1 REQUIRED)\n\
                 foreach(kind alta_auth static)\n\
                 add_executable(${kind} minimal.c)\n\
                 target_link_libraries(${kind} PRIVATE alta_auth::${kind})\n\
                 endforeach()\n";
    std::fs::write(installed.path("CMakeLists.txt"), lists).unwrap();
    // Where /lib is a link to /usr/lib, that is where CMake may come to it first.
    std::os::unix::fs::symlink("usr/lib", installed.path("lib")).unwrap();
    for libraries in [Installed::LIBDIR, Installed::LIBDIR.trim_start_matches("/usr")] {
        let build = installed.path("build").join(libraries.trim_start_matches('/'));
        let package = installed.path(libraries).join("cmake/alta_auth");
        succeed(
            command("cmake", ["-S"])
                .arg(installed.directory.path())
                .arg("-B")
                .arg(&build)
                .arg(format!("-Dalta_auth_DIR={}", package.display())),
        );
        succeed(command("cmake", ["--build"]).arg(&build));
        for kind in ["alta_auth", "static"] {
            assert_eq!(succeed(&mut Command::new(build.join(kind))), REFUSED);
        }
    }
}

/// The example with a backend that nobody can be: port 1 of this machine refuses.
fn unreachable_minimal() -> String {
    let source = read("ffi-examples/minimal.c");
    let changed = source.replace("127.0.0.1:6000", "127.0.0.1:1");
    assert_ne!(changed, source);
    changed
}
