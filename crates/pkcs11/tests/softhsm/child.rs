//! What the program's hidden verb does, alone; and with `inspect MODULE PIN`, a look at the private keys of the only token: one line a
//! key, its label and whether it is sensitive, extractable, able to sign, and readable in its secret part.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::process::ExitCode;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [verb, module, pin] if verb == "inspect" => inspect(module, pin),
        _ => return swarmpki_pkcs11::child::run(),
    }
    ExitCode::SUCCESS
}

fn inspect(module: &str, pin: &str) {
    let pkcs11 = Pkcs11::new(module).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
    let session = pkcs11.open_ro_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(pin.to_owned()))).unwrap();
    let asked = [
        AttributeType::Label,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Sign,
        AttributeType::Value,
        AttributeType::PrivateExponent,
    ];
    for key in session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap() {
        let (mut label, mut flags, mut readable) = (String::new(), [false; 3], false);
        for attribute in session.get_attributes(key, &asked).unwrap() {
            match attribute {
                Attribute::Label(bytes) => label = String::from_utf8(bytes).unwrap(),
                Attribute::Sensitive(flag) => flags[0] = flag,
                Attribute::Extractable(flag) => flags[1] = flag,
                Attribute::Sign(flag) => flags[2] = flag,
                _ => readable = true,
            }
        }
        let [sensitive, extractable, sign] = flags;
        println!("{label}: sensitive {sensitive}, extractable {extractable}, sign {sign}, readable {readable}");
    }
}
