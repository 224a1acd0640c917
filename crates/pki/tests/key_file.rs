//! Conformance 201 to 204, 216 to 219, 222, and key files made by a real engine and by OpenSSL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_pki as pki;

mod authority;

use std::collections::BTreeMap;

use authority::{data, key};
use pki::key::KeyError;
use pki::key_file::{Headers, KeyFile, KeyFileError};
use pki::{PrivateKey, SecretBytes, Signer};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn kek(bytes: &[u8]) -> SecretBytes {
    SecretBytes::copy_of(bytes)
}

fn error(result: Result<KeyFile, KeyFileError>) -> KeyFileError {
    result.err().unwrap()
}

#[test]
fn locked_file_of_a_real_engine() {
    let file = data("engine-locked.key");
    let kek = kek(&unhex("13905fc50c7586801dd37e86e6677dd7ed60341896fc61c005b7e6fa66ea948f"));
    let read = KeyFile::parse(&file, Some(&kek)).unwrap();
    assert_eq!(read.kek_version, 85);
    let dek =
        "CAESMCMrgK4xB6f20z8jJBR447I5lcVq5CD9cZDumQXMBYbCNXgAWI3z54EFyn32C0XeJxoY4bsVurnD1zhUZrOh97y5kf8eeEjMtKpf";
    assert_eq!(*read.headers, BTreeMap::from([("raft-dek".to_owned(), dek.to_owned())]));
    let scalar: [u8; 32] =
        unhex("5cb2be20457242f884f5cee978e4236df1592807134189069eda7b987af0ca83").try_into().unwrap();
    assert!(read.key.pkcs8_der().ct_eq(PrivateKey::generate_p256(&scalar).unwrap().pkcs8_der().expose()));
    let point = "0407c8b04ebc6ca74699ce58d19191653e8cf9df906034db4ccb663159dc838770d4284d22cfbd49441a1791477a7392b81ba0e2cd2edd5f12c45535a9106f59ad";
    assert_eq!(read.key.public().key_bytes(), unhex(point));

    // With the engine's salt and IV we write the engine's file, byte for byte.
    let salt = unhex("6f5d5ba8e9c04d9e").try_into().unwrap();
    let iv = unhex("af1631daa2a075c820970310 5d6123c1".replace(' ', "").as_str()).try_into().unwrap();
    let written = read.encode(Some((&kek, salt, iv))).unwrap();
    assert_eq!(String::from_utf8_lossy(written.expose()), String::from_utf8_lossy(&file));
}

#[test]
fn c201_c202_without_kek() {
    let headers = BTreeMap::from([("raft-dek".to_owned(), "EiCH".to_owned()), ("a".to_owned(), "b:c".to_owned())]);
    let file = KeyFile { kek_version: 8, headers: headers.clone().into(), key: key(1) };
    let text = file.encode(None).unwrap();
    let lines = String::from_utf8_lossy(text.expose()).into_owned();
    assert!(lines.starts_with("-----BEGIN PRIVATE KEY-----\na: b:c\nkek-version: 8\nraft-dek: EiCH\n\n"), "{lines}");
    for kek in [None, Some(&kek(b"kek!"))] {
        let read = KeyFile::parse(text.expose(), kek).unwrap();
        assert_eq!((read.kek_version, &*read.headers), (8, &headers));
        assert!(read.key.pkcs8_der().ct_eq(key(1).pkcs8_der().expose()));
    }
    // Without any header: version 0.
    let bare = KeyFile::parse(key(1).pkcs8_pem().expose().as_bytes(), None).unwrap();
    assert_eq!((bare.kek_version, bare.headers.len()), (0, 0));
}

#[test]
fn c203_c204_c218_with_kek() {
    let file = KeyFile { kek_version: 3, headers: Headers::default(), key: key(1) };
    let new = kek(b"kek!");
    let text = file.encode(Some((&new, [1; 8], [2; 16]))).unwrap();
    assert!(matches!(error(KeyFile::parse(text.expose(), None)), KeyFileError::InvalidKek(KeyError::Encrypted)));
    assert!(matches!(error(KeyFile::parse(text.expose(), Some(&kek(b"old")))), KeyFileError::InvalidKek(_)));
    assert!(matches!(error(KeyFile::parse(text.expose(), Some(&kek(b"")))), KeyFileError::InvalidKek(_)));
    assert_eq!(KeyFile::parse(text.expose(), Some(&new)).unwrap().kek_version, 3);

    let clear = file.encode(Some((&kek(b""), [1; 8], [2; 16]))).unwrap();
    KeyFile::parse(clear.expose(), None).unwrap();
}

#[test]
fn headers_that_cannot_be_written() {
    for (name, value) in
        [("a\nb", "x"), ("a:b", "x"), ("", "x"), ("a", "x\ny"), ("Proc-Type", "x"), ("kek-version", "7")]
    {
        let headers = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let file = KeyFile { kek_version: 0, headers: headers.into(), key: key(1) };
        assert_eq!(file.encode(None).err(), Some(KeyFileError::Header(name.to_owned())));
    }
}

#[test]
fn c216_c217_texts_of_decryption() {
    let ponies = kek(b"ponies");
    let read = |name: &str, password: Option<&SecretBytes>| PrivateKey::from_pem(&data(name), password);
    let same = |one: &str, two: &str| {
        let (one, two) = (read(one, Some(&ponies)).unwrap(), read(two, None).unwrap());
        assert!(one.pkcs8_der().ct_eq(two.pkcs8_der().expose()));
    };
    same("v1-root-encrypted.key", "v1-root.key");
    same("secp521r1-encrypted.key", "secp521r1.key");
    same("secp384r1-params-sec1.key", "secp384r1.key");
    same("rsa2048-pkcs1.key", "rsa2048.key");
    let text = |name: &str, password: Option<&SecretBytes>| read(name, password).err().unwrap().to_string();
    // With a wrong password the padding is right by chance only.
    assert!(
        ["pkcs8: incorrect password", "pkcs8: invalid padding size"]
            .contains(&text("v1-root-encrypted.key", Some(&kek(b"pony"))).as_str())
    );
    assert_eq!(text("v1-root-aes128.key", Some(&ponies)), "pkcs8: only AES-256-CBC supported");
    assert_eq!(error(KeyFile::parse(b"nothing", None)), KeyFileError::NoKey);
}

#[test]
fn c219_the_encryption_of_old_engines_is_read_and_not_kept() {
    let old = data("v1-root-legacy.key");
    let ponies = kek(b"ponies");
    let plain = PrivateKey::from_pem(&data("v1-root.key"), None).unwrap();
    let read = PrivateKey::from_pem(&old, Some(&ponies)).unwrap();
    assert!(read.pkcs8_der().ct_eq(plain.pkcs8_der().expose()));

    // As a key file: with the header that old engines had, which stays, while those of the encryption go.
    let text = String::from_utf8(old.clone()).unwrap().replacen("Proc-Type", "kek-version: 4\nProc-Type", 1);
    let file = KeyFile::parse(text.as_bytes(), Some(&ponies)).unwrap();
    assert_eq!((file.kek_version, file.headers.len()), (4, 0));
    assert!(file.key.pkcs8_der().ct_eq(plain.pkcs8_der().expose()));
    let written = file.encode(Some((&ponies, [1; 8], [2; 16]))).unwrap();
    assert!(written.expose().starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nkek-version: 4\n\n"));

    // No KEK and a wrong one. By chance a wrong one passes the padding, once in 256; this one does not.
    assert_eq!(error(KeyFile::parse(&old, None)), KeyFileError::InvalidKek(KeyError::Encrypted));
    assert_eq!(error(KeyFile::parse(&old, Some(&kek(b"")))), KeyFileError::InvalidKek(KeyError::Encrypted));
    assert_eq!(error(KeyFile::parse(&old, Some(&kek(b"pony")))), KeyFileError::InvalidKek(KeyError::Padding));
    // Damaged headers and bodies.
    let changed = |from: &str, to: &str| {
        let text = String::from_utf8(old.clone()).unwrap();
        assert!(text.contains(from));
        PrivateKey::from_pem(text.replace(from, to).as_bytes(), Some(&ponies)).err().unwrap()
    };
    assert_eq!(changed("AES-256-CBC", "DES-EDE3-CBC"), KeyError::Encryption("AES-256-CBC"));
    for iv in ["", "BF", "BFECC13427FD7AFD119C3AFA7FEB814Z", "+FECC13427FD7AFD119C3AFA7FEB8144"] {
        assert_eq!(changed("BFECC13427FD7AFD119C3AFA7FEB8144", iv), KeyError::Malformed("DEK-Info header"), "{iv}");
    }
    assert_eq!(changed("4RB7", ""), KeyError::Padding, "no whole blocks");
    assert_eq!(
        changed("4RB7", "4RB8"),
        KeyError::Password,
        "the first block, so the padding is right and the key is not"
    );
}

#[test]
fn c222_forms_as_openssl_writes_them() {
    for name in ["secp384r1", "secp521r1", "rsa2048", "rsa3072"] {
        let file = data(&format!("{name}.key"));
        let read = PrivateKey::from_pem(&file, None).unwrap();
        assert_eq!(read.pkcs8_pem().expose().as_bytes(), file, "{name}");
    }
    let sec1 = data("v1-root.key");
    let read = PrivateKey::from_pem(&sec1, None).unwrap();
    assert_eq!(read.sec1_pem().unwrap().expose().as_bytes(), sec1);
    let rsa = PrivateKey::from_pem(&data("rsa2048.key"), None).unwrap();
    assert!(rsa.sec1_pem().is_err());
}

#[test]
fn seeds_out_of_range() {
    assert!(matches!(PrivateKey::generate_p256(&[0; 32]), Err(KeyError::Seed)));
    assert!(matches!(PrivateKey::generate_p256(&[0xff; 32]), Err(KeyError::Seed)));
    let mut one = [0; 32];
    one[31] = 1;
    let key = PrivateKey::generate_p256(&one).unwrap();
    assert_eq!(key.public().key_bytes()[..5], [4, 0x6b, 0x17, 0xd1, 0xf2], "the generator of P-256");
}

#[test]
fn every_kind_signs_what_its_public_key_verifies() {
    for name in ["v1-root", "secp384r1", "secp521r1", "rsa2048", "rsa3072"] {
        let key = PrivateKey::from_pem(&data(&format!("{name}.key")), None).unwrap();
        let signature = key.duplicate().sign(b"message").unwrap();
        key.public().verify(key.algorithm(), b"message", &signature).unwrap();
        assert!(key.public().verify(key.algorithm(), b"massage", &signature).is_err());
    }
}
