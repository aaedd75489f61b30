//! Revocation: what the backend said before is void at once.

use super::engine::{alta_auth_engine, engine};
use super::pointers::text;
use super::status;
use super::types::*;
use crate::engine::Engine;

/// Forgets what is known of a session at once; an answer in flight does not revive it, and its watches end. Until the
/// backend has answered again, for ttl.max at most, the session gets neither a last known decision nor a default action
/// that lets it in. With sessions.enforce it gives its place back, and is not banned any more. Costs the same whatever is remembered. ALTA_AUTH_OK for any id that is not empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_revoke(handle: *mut alta_auth_engine, session_id: alta_auth_str) -> i32 {
    // SAFETY: the contract of the header.
    status(|| unsafe { revoke(handle, session_id, Engine::revoke) })
}

/// As alta_auth_revoke for all that the backend said of a user (X-UserId), in whatever session. The default action denies
/// where the engine still knows that the question was this user's. ALTA_AUTH_OK for any id that is not empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_revoke_user(handle: *mut alta_auth_engine, user_id: alta_auth_str) -> i32 {
    // SAFETY: the contract of the header.
    status(|| unsafe { revoke(handle, user_id, Engine::revoke_user) })
}

/// As alta_auth_revoke for every session there is. The default action denies until the backend has answered any check that
/// was submitted after this, for ttl.max at most.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_revoke_all(handle: *mut alta_auth_engine) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        unsafe { engine(handle)? }.engine.revoke_all();
        Ok(())
    })
}

unsafe fn revoke(
    handle: *mut alta_auth_engine,
    id: alta_auth_str,
    revoke: fn(&Engine, &[u8]),
) -> Result<(), i32> {
    // Of whatever length there is: space around a session's id counts for nothing, and an id that no check can have is as
    // revoked as any.
    // SAFETY: the contract of the header.
    let (handle, id) = unsafe { (engine(handle)?, text(id, isize::MAX as usize)?) };
    if id.is_empty() {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    revoke(&handle.engine, id);
    Ok(())
}
