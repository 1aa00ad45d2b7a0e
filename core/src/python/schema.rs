//! Schemas, messages as dicts, and decimals.

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PyMapping, PySequence, PyString};

use crate::json::{
    self, Field, Fields, JsonError, JsonFault, Kind, Message, Record, Schema, Value,
};
use crate::python::convert::{Octets, bytes};
use crate::python::errors::json_error;

/// The vocabulary: messages by their MsgType.
#[pyclass(name = "Schema", module = "psymm._core", frozen)]
pub(crate) struct PySchema {
    schema: Schema,
}

#[pymethods]
impl PySchema {
    #[new]
    fn new(definition: Octets) -> PyResult<Self> {
        let schema = Schema::new(definition.as_slice()).map_err(json_error)?;
        Ok(Self { schema })
    }

    fn parse<'py>(&self, py: Python<'py>, payload: Octets) -> PyResult<Bound<'py, PyDict>> {
        let payload = payload.as_slice();
        let message = py
            .detach(|| self.schema.parse(payload))
            .map_err(json_error)?;
        let dict = PyDict::new(py);
        dict.set_item("MsgType", &message.msg_type)?;
        if let Some(fields) = self.schema.fields(&message.msg_type) {
            fill(&dict, fields, &message.record)?;
        }
        Ok(dict)
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        message: &Bound<'py, PyMapping>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if !message.contains("MsgType")? {
            return Err(refusal("MsgType", JsonFault::MissingField));
        }
        let msg_type = text(&message.get_item("MsgType")?, "MsgType")?;
        let Some(fields) = self.schema.fields(&msg_type) else {
            return Err(refusal(&msg_type, JsonFault::UnknownMessage));
        };
        let record = record(message, fields, true)?;
        let message = Message { msg_type, record };
        Ok(bytes(
            py,
            &self.schema.encode(&message).map_err(json_error)?,
        ))
    }
}

/// Writes a record to a dict: a branch for each type.
fn fill(dict: &Bound<'_, PyDict>, fields: &Fields, record: &Record) -> PyResult<()> {
    let py = dict.py();
    for (field, value) in fields.list().iter().zip(record) {
        let name = &field.name;
        match (value, &field.kind) {
            (None, _) => {}
            (Some(Value::Text(text)), _) => dict.set_item(name, text)?,
            (Some(Value::Number(number)), _) => dict.set_item(name, number)?,
            (Some(Value::Decimal(value)), _) => dict.set_item(name, value)?,
            (Some(Value::Bytes(octets)), _) => dict.set_item(name, bytes(py, octets))?,
            (Some(Value::Bool(value)), _) => dict.set_item(name, value)?,
            (Some(Value::List(entries)), Kind::Group { fields, .. }) => {
                let list = PyList::empty(py);
                for entry in entries {
                    let dict = PyDict::new(py);
                    fill(&dict, fields, entry)?;
                    list.append(dict)?;
                }
                dict.set_item(name, list)?;
            }
            // The parser gives lists to groups alone.
            (Some(Value::List(_)), _) => {}
        }
    }
    Ok(())
}

fn refusal(field: &str, fault: JsonFault) -> PyErr {
    json_error(JsonError {
        offset: 0,
        field: field.to_owned(),
        fault,
    })
}

/// The text of a Python string; one with half of a surrogate pair in it has none.
fn text(value: &Bound<'_, PyAny>, field: &str) -> PyResult<String> {
    let value = value
        .cast::<PyString>()
        .map_err(|_| refusal(field, JsonFault::WrongType("a str")))?;
    value.to_str().map(str::to_owned).map_err(|error| {
        if error.is_instance_of::<PyUnicodeEncodeError>(value.py()) {
            refusal(field, JsonFault::LoneSurrogate)
        } else {
            error
        }
    })
}

fn record(mapping: &Bound<'_, PyMapping>, fields: &Fields, is_message: bool) -> PyResult<Record> {
    let mut record: Record = vec![None; fields.list().len()];
    for item in mapping.items()?.iter() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let key = text(&key, "")?;
        if is_message && key == "MsgType" {
            continue;
        }
        let Some(position) = fields.position(&key) else {
            return Err(refusal(&key, JsonFault::UnknownField));
        };
        record[position] = Some(typed(&value, &fields.list()[position])?);
    }
    Ok(record)
}

/// A Python value as the field's kind wants it: a branch for each kind. Ranges are the encoder's business.
fn typed(value: &Bound<'_, PyAny>, field: &Field) -> PyResult<Value> {
    let name = &field.name;
    let wrong = || refusal(name, JsonFault::WrongType(field.kind.python_type()));
    let is_int = value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>();
    match &field.kind {
        Kind::Str { .. } | Kind::Enum { .. } => Ok(Value::Text(text(value, name)?)),
        Kind::Int | Kind::Uint if is_int => value
            .extract()
            .map(Value::Number)
            .map_err(|_| refusal(name, JsonFault::BadInteger)),
        Kind::Decimal | Kind::Udecimal if is_int => value
            .extract()
            .map(Value::Decimal)
            .map_err(|_| refusal(name, JsonFault::BadDecimal)),
        Kind::Hex { .. } | Kind::HexData { .. } if !value.is_instance_of::<PyString>() => {
            let octets: Octets = value.extract().map_err(|_| wrong())?;
            Ok(Value::Bytes(octets.as_slice().to_vec()))
        }
        Kind::Bool => value
            .cast::<PyBool>()
            .map(|b| Value::Bool(b.is_true()))
            .map_err(|_| wrong()),
        Kind::Group { fields, .. } => {
            let entries = value.cast::<PySequence>().map_err(|_| wrong())?;
            let mut list = Vec::new();
            for entry in entries.try_iter()? {
                let entry = entry?;
                let mapping = entry.cast::<PyMapping>().map_err(|_| wrong())?;
                list.push(record(mapping, fields, false)?);
            }
            Ok(Value::List(list))
        }
        _ => Err(wrong()),
    }
}

#[pyfunction]
pub(crate) fn parse_decimal(text: &Bound<'_, PyString>) -> PyResult<i128> {
    let text = self::text(text, "")?;
    json::parse_decimal(&text).ok_or_else(|| refusal("", JsonFault::BadDecimal))
}

#[pyfunction]
pub(crate) fn format_decimal(value: &Bound<'_, PyInt>) -> PyResult<String> {
    let value: Option<i128> = value.extract().ok();
    value
        .and_then(json::format_decimal)
        .ok_or_else(|| refusal("", JsonFault::BadDecimal))
}
