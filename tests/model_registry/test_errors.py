from __future__ import annotations

from model_registry.errors import ArtifactError, ContractError, ManifestError, ModelError, UnsupportedModel


def test_message_is_reason_then_remedy():
    error = ManifestError("class 'a' has the value 300.", "Use a value from 0 to 255.")
    assert str(error) == "class 'a' has the value 300. Use a value from 0 to 255"
    assert (error.reason, error.remedy) == ("class 'a' has the value 300", "Use a value from 0 to 255")
    assert str(ModelError("no file")) == "no file"


def test_all_errors_are_model_errors():
    assert all(issubclass(e, ModelError) for e in (ManifestError, ArtifactError, UnsupportedModel, ContractError))
