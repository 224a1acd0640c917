//! Loading the module, finding the token, logging in.

use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Limit, Slot};
use cryptoki::types::AuthPin;

use super::module::{Module, describe, fault};
use crate::pin::Pin;
use crate::protocol::{Fault, PinSource, TokenMatch};
use crate::token::TokenInfo;

/// Sessions, and threads that sign. More than cores: a token on a network or a bus makes its thread wait.
const SESSIONS_MAX: u64 = 8;

/// Loads the module, logs in to the one token that fits, and opens as many sessions as the token allows, up to [`SESSIONS_MAX`].
pub(super) fn open(path: &Path, wanted: &TokenMatch, pin: PinSource) -> Result<(Module, Vec<Session>), Fault> {
    let load = |error: Error| Fault::Load(describe(&error));
    // Before anything is loaded: a PIN that cannot be had needs no module.
    let pin = match pin {
        PinSource::File(file) => Pin::read_file(&file).map_err(Fault::Pin)?,
        PinSource::Text(pin) => pin,
    };
    let pkcs11 = Pkcs11::new(path).map_err(load)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(load)?;

    let slot = find_token(&pkcs11, wanted)?;
    let token = pkcs11.get_token_info(slot).map_err(|error| fault(&error))?;
    let mut sessions = vec![pkcs11.open_ro_session(slot).map_err(|error| fault(&error))?];
    // A PIN tried again by a machine must never be the one that locks the token.
    if token.user_pin_locked() {
        return Err(Fault::PinRefused("the PIN is locked".into()));
    }
    if token.user_pin_final_try() {
        return Err(Fault::PinRefused(
            "one try is left before the token locks: log in once with the token's own tools".into(),
        ));
    }
    log_in(&sessions[0], &AuthPin::new(pin.expose().into()))?;
    drop(pin);

    let limit = match token.max_session_count() {
        Limit::Max(count) => count.clamp(1, SESSIONS_MAX),
        Limit::Infinite | Limit::Unavailable => SESSIONS_MAX,
    };
    for _ in 1..limit {
        match pkcs11.open_ro_session(slot) {
            Ok(session) => sessions.push(session),
            Err(_) => break,
        }
    }
    let mechanisms = pkcs11.get_mechanism_list(slot).map_err(|error| fault(&error))?;
    let info = TokenInfo {
        label: token.label().to_owned(),
        serial: token.serial_number().to_owned(),
        manufacturer: token.manufacturer_id().to_owned(),
        model: token.model().to_owned(),
    };
    Ok((Module { pkcs11, slot, mechanisms, info }, sessions))
}

fn find_token(pkcs11: &Pkcs11, wanted: &TokenMatch) -> Result<Slot, Fault> {
    let slots = pkcs11.get_slots_with_initialized_token().map_err(|error| fault(&error))?;
    let fitting: Vec<Slot> = slots.into_iter().filter(|slot| fits(pkcs11, *slot, wanted)).collect();
    match fitting.as_slice() {
        [] => Err(Fault::NoToken),
        [slot] => Ok(*slot),
        many => Err(Fault::ManyTokens(u32::try_from(many.len()).unwrap_or(u32::MAX))),
    }
}

fn fits(pkcs11: &Pkcs11, slot: Slot, wanted: &TokenMatch) -> bool {
    let Ok(token) = pkcs11.get_token_info(slot) else {
        return false;
    };
    let same = |wanted: &Option<String>, told: &str| wanted.as_ref().is_none_or(|wanted| wanted == told);
    same(&wanted.label, token.label())
        && same(&wanted.manufacturer, token.manufacturer_id())
        && same(&wanted.model, token.model())
        && same(&wanted.serial, token.serial_number())
        && wanted.slot_id.is_none_or(|id| id == slot.id())
}

fn log_in(session: &Session, pin: &AuthPin) -> Result<(), Fault> {
    use RvError as R;
    match session.login(UserType::User, Some(pin)) {
        Ok(()) | Err(Error::Pkcs11(R::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Error::Pkcs11(
            code @ (R::PinIncorrect
            | R::PinInvalid
            | R::PinLenRange
            | R::PinExpired
            | R::PinLocked
            | R::UserPinNotInitialized),
            _,
        )) => Err(Fault::PinRefused(format!("{code:?}"))),
        Err(error) => Err(fault(&error)),
    }
}
