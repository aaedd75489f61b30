//! Configurations: keys and values as text.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::call::{HostHook, HostLog};
use super::pointers::{c_text, hand_out, object_mut, take_back};
use super::types::*;
use super::{explained, guarded, status};
use crate::config::{Config, ConfigError, shown_key};

/// A configuration. One thread uses it at a time.
pub struct alta_auth_config {
    pub(super) config: Config,
}

/// A new, empty configuration; NULL only for want of memory. Free it with alta_auth_config_free, unless
/// alta_auth_engine_new or alta_auth_engine_reload took it.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_config_new() -> *mut alta_auth_config {
    guarded(std::ptr::null_mut(), || hand_out(alta_auth_config { config: Config::new() }))
}

/// Sets one key; the last value counts. Durations are 500ms, 2s, 10m; sizes 64KiB; lists are comma-separated. On an error
/// nothing has changed and error (which may be NULL) says which key, why, and what to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_config_set(
    config: *mut alta_auth_config,
    key: *const c_char,
    value: *const c_char,
    error: *mut c_char,
    error_len: usize,
) -> i32 {
    let set = || {
        // SAFETY: the contract of the header.
        let (config, key, value) = unsafe { (object_mut(config)?, c_text(key)?, c_text(value)?) };
        let key = utf8(key, "a key")?;
        Ok(config.config.set(key, utf8(value, &shown_key(key))?)?)
    };
    // SAFETY: the contract of the header.
    unsafe { explained(error, error_len, set) }
}

/// Sets every key of a TOML file. On an error nothing has changed and error says why.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_config_load(
    config: *mut alta_auth_config,
    toml_path: *const c_char,
    error: *mut c_char,
    error_len: usize,
) -> i32 {
    let load = || {
        // SAFETY: the contract of the header.
        let (config, path) = unsafe { (object_mut(config)?, c_text(toml_path)?) };
        Ok(config.config.load(Path::new(OsStr::from_bytes(path.to_bytes())))?)
    };
    // SAFETY: the contract of the header.
    unsafe { explained(error, error_len, load) }
}

/// Where lines of the log go, up to log.level; NULL: nowhere. No line comes after alta_auth_engine_free has returned. One may
/// come here after a reload to another log has returned, from a thread that was on its way: what user_data points to must
/// live until the engine is freed, not until the reload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_config_set_log(
    config: *mut alta_auth_config,
    log: alta_auth_log,
    user_data: *mut c_void,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let config = unsafe { object_mut(config)? };
        match log {
            Some(function) => config.config.set_log(Arc::new(HostLog::new(function, user_data))),
            None => config.config.unset_log(),
        }
        Ok(())
    })
}

/// Run start and stop on each thread of an engine (alta-io-N, alta-cb-N, and alta-dns where a URL has a name: one, or as many
/// as lookups go on at once, at most 16), before its first and after its last callback; either may be NULL. For hosts whose
/// threads must be registered or pinned. A reload does not change them. An alta-dns that hangs in the system's resolver when
/// its engine is freed runs no stop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_config_set_thread_hooks(
    config: *mut alta_auth_config,
    start: alta_auth_thread_hook,
    stop: alta_auth_thread_hook,
    user_data: *mut c_void,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let config = unsafe { object_mut(config)? };
        let hook = |hook: alta_auth_thread_hook| {
            let hook = HostHook::new(hook?, user_data);
            Some(Arc::new(move || hook.call()) as Arc<dyn Fn() + Send + Sync>)
        };
        config.config.set_thread_hooks(hook(start), hook(stop));
        Ok(())
    })
}

/// Frees a configuration that no engine took. NULL is accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_config_free(config: *mut alta_auth_config) {
    // SAFETY: the contract of the header.
    guarded((), || drop(unsafe { take_back(config) }));
}

fn utf8<'a>(text: &'a CStr, what: &str) -> Result<&'a str, ConfigError> {
    text.to_str().map_err(|_| ConfigError::without_key(format!("{what}: not UTF-8; write plain text")))
}
