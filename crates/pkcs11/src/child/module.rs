//! A module that is loaded, its token, and what its return codes mean.

use std::sync::Arc;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::Slot;

use crate::protocol::Fault;
use crate::token::TokenInfo;

/// A module that is loaded and logged in.
pub(super) struct Module {
    pub(super) pkcs11: Pkcs11,
    pub(super) slot: Slot,
    pub(super) mechanisms: Vec<MechanismType>,
    pub(super) info: TokenInfo,
}

/// Tells the module that it is no longer needed, unless somebody still holds it.
pub(super) fn finalize(module: Arc<Module>) {
    if let Some(module) = Arc::into_inner(module) {
        // It ends with the process anyway.
        let _ = module.pkcs11.finalize();
    }
}

/// The function that failed and the return code's name: cryptoki's own texts quote half the standard.
pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("C_{function:?}: {code:?}"),
        other => other.to_string(),
    }
}

/// Whether the request or the token is at fault.
pub(super) fn fault(error: &Error) -> Fault {
    if is_gone(error) { Fault::Gone(describe(error)) } else { Fault::Refused(describe(error)) }
}

/// Whether the object that a handle stood for is no longer there.
pub(super) fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid, _))
}

fn is_gone(error: &Error) -> bool {
    use RvError as R;
    matches!(
        error,
        Error::Pkcs11(
            R::CryptokiNotInitialized
                | R::DeviceError
                | R::DeviceMemory
                | R::DeviceRemoved
                | R::FunctionFailed
                | R::GeneralError
                | R::HostMemory
                | R::SessionClosed
                | R::SessionCount
                | R::SessionHandleInvalid
                | R::SlotIdInvalid
                | R::TokenNotPresent
                | R::TokenNotRecognized
                | R::UserNotLoggedIn,
            _
        )
    )
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn whose_fault() {
        let of = |code| fault(&Error::Pkcs11(code, Function::Sign));
        assert_eq!(of(RvError::DeviceRemoved), Fault::Gone("C_Sign: DeviceRemoved".into()));
        assert_eq!(of(RvError::UserNotLoggedIn), Fault::Gone("C_Sign: UserNotLoggedIn".into()));
        assert_eq!(of(RvError::KeyFunctionNotPermitted), Fault::Refused("C_Sign: KeyFunctionNotPermitted".into()));
        assert_eq!(of(RvError::DataLenRange), Fault::Refused("C_Sign: DataLenRange".into()));
    }
}
