//! The derive macro of `stein_base::Explain`: doc comments become what keys mean, serde's attributes say which keys there are,
//! what they are called and what their defaults are. So whatever lists settings says what reading them does.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, Field, Fields, Ident, Lit, LitStr, Meta, Path, Result, Token,
    parse_macro_input, punctuated::Punctuated, spanned::Spanned,
};

/// Explains a type of settings: a struct with named fields, or an enum of words or of variants that are tagged by `kind`.
///
/// It reads serde's `default`, `skip`, `tag`, `rename_all = "snake_case"`, `alias` and `try_from`. A type that is read by another one takes
/// its keys and its documentation.
#[proc_macro_derive(Explain)]
pub fn explain(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    derive(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let (name, doc, serde) = (&input.ident, doc(&input.attrs), Serde::of(&input.attrs)?);
    let title = name.to_string();
    let form = match (&input.data, &serde.try_from) {
        (_, Some(path)) => quote!(<#path as ::stein_base::Explain>::form()),
        (Data::Struct(data), None) => {
            let Fields::Named(fields) = &data.fields else {
                return Err(Error::new(name.span(), "settings are a struct with named fields"));
            };
            let whole =
                serde.default.is_some().then(|| quote!(let whole = <Self as ::core::default::Default>::default();));
            let keys = keys(fields.named.iter(), serde.default.is_some())?;
            quote!(::stein_base::explain::Form::Table(::stein_base::explain::Table {
                name: #title,
                doc: #doc,
                keys: || { #whole ::std::vec![#(#keys),*] },
            }))
        }
        (Data::Enum(data), None) => {
            let entries = data.variants.iter().map(|variant| {
                let (named, own) = (serde.name(&variant.ident), Serde::of(&variant.attrs)?);
                let (doc, aliases, keys) =
                    (self::doc(&variant.attrs), own.aliases, keys(variant.fields.iter(), false)?);
                Ok(quote!(::stein_base::explain::Entry::new(#named, &[#(#aliases),*], #doc, ::std::vec![#(#keys),*])))
            });
            let (entries, tagged) = (entries.collect::<Result<Vec<_>>>()?, serde.tagged);
            quote!(::stein_base::explain::Form::Choice(::stein_base::explain::Choice {
                name: #title,
                doc: #doc,
                tagged: #tagged,
                entries: || ::std::vec![#(#entries),*],
            }))
        }
        (Data::Union(_), None) => return Err(Error::new(name.span(), "a union is no settings")),
    };
    Ok(quote! {
        #[automatically_derived]
        impl ::stein_base::Explain for #name {
            fn form() -> ::stein_base::explain::Form { #form }
        }
    })
}

/// The keys of some fields; `whole` says that a default of all of them is at hand under that name.
fn keys<'a>(fields: impl Iterator<Item = &'a Field>, whole: bool) -> Result<Vec<TokenStream>> {
    let key = |field: &Field| {
        let Some(name) = &field.ident else { return Err(Error::new(field.span(), "a setting has a name")) };
        let (title, doc, form) = (name.to_string(), doc(&field.attrs), &field.ty);
        let default = match Serde::of(&field.attrs)?.default {
            Some(Some(path)) => quote!(::core::option::Option::Some(#path())),
            Some(None) => quote!(::core::option::Option::Some(<#form as ::core::default::Default>::default())),
            None if whole => quote!(::core::option::Option::Some(whole.#name)),
            None => quote!(::core::option::Option::None),
        };
        Ok(quote!(::stein_base::explain::Key::new::<#form>(#title, #doc, #default)))
    };
    let mut all = Vec::new();
    for field in fields {
        if !Serde::of(&field.attrs)?.skipped {
            all.push(key(field)?);
        }
    }
    Ok(all)
}

/// The text of a doc comment, line by line.
fn doc(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let Expr::Lit(line) = &meta.value
            && let Lit::Str(line) = &line.lit
        {
            text.push_str(&line.value());
            text.push('\n');
        }
    }
    text
}

/// What serde's attributes say of a type, variant or field.
#[derive(Default)]
struct Serde {
    /// Whether there is a default, and the function that makes it.
    default: Option<Option<Path>>,
    /// Whether files have no such field.
    skipped: bool,
    tagged: bool,
    snake_case: bool,
    aliases: Vec<String>,
    try_from: Option<Path>,
}

impl Serde {
    fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            for meta in attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)? {
                match &meta {
                    Meta::Path(path) if path.is_ident("default") => serde.default = Some(None),
                    Meta::Path(path) if path.is_ident("skip") => serde.skipped = true,
                    Meta::NameValue(pair) => {
                        let Expr::Lit(value) = &pair.value else { continue };
                        let Lit::Str(text) = &value.lit else { continue };
                        serde.take(&pair.path, text)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(serde)
    }

    fn take(&mut self, key: &Path, text: &LitStr) -> Result<()> {
        match key.get_ident().map(Ident::to_string).as_deref() {
            Some("default") => self.default = Some(Some(text.parse()?)),
            Some("try_from") => self.try_from = Some(text.parse()?),
            Some("alias") => self.aliases.push(text.value()),
            Some("tag") if text.value() == "kind" => self.tagged = true,
            Some("rename_all") if text.value() == "snake_case" => self.snake_case = true,
            Some("tag" | "rename_all" | "rename") => {
                return Err(Error::new(text.span(), "settings are tagged by `kind` and named in snake_case"));
            }
            _ => {}
        }
        Ok(())
    }

    /// The name of a variant in files.
    fn name(&self, variant: &Ident) -> String {
        let variant = variant.to_string();
        if !self.snake_case {
            return variant;
        }
        let mut name = String::new();
        for (place, letter) in variant.char_indices() {
            if place > 0 && letter.is_uppercase() {
                name.push('_');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }
}
