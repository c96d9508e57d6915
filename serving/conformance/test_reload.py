"""HandleReloadConfigRequest: models come and go, and labels change what they mean."""

import pytest
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.conformance.asking import (
    configuration,
    refusal,
    reload_request,
    request_for,
    until,
)


def refused(server, config):
    return refusal(server.model.HandleReloadConfigRequest, reload_request(config))


def entry(config, name):
    return next(each for each in config.model_config_list.config if each.name == name)


def added(config, name, base_path):
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform="tensorflow"
    )
    return config


def test_a_model_comes_and_goes(server, folder, reload, scratch, put_version):
    put_version("2", scratch / "5")
    response = reload(added(configuration(folder), "visitor", scratch))
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert server.outputs(model="visitor", x=[0.0]) == {"y": [2.0]}
    assert server.predict(model="visitor", x=[0.0]).model_spec.version.value == 5
    reload(configuration(folder))
    gone = request_for(model="visitor", x=[0.0])
    until(lambda: server.states("visitor").get(5) == "END")  # what has ended stays listed
    assert refusal(server.prediction.Predict, gone) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(visitor)",
    )
    assert server.outputs(x=[0.0]) == {"y": [1.0]}


@pytest.mark.parametrize("template", ["broken", "cold", "wrong_batching"])
def test_a_model_that_cannot_be_loaded(server, folder, reload, scratch, put_version, template):
    """``cold`` has a warm-up request that fails."""
    put_version(template, scratch / "1")
    name = f"bad_{template}"
    found = refused(server, added(configuration(folder), name, scratch))
    assert found[0] != "OK"
    assert "servable(s) did not become available" in found[1]
    assert server.states(name) == {1: "END"}
    assert server.outputs(x=[0.0]) == {"y": [1.0]}


def test_what_went_wrong_is_in_the_status(server, folder, reload, scratch, put_version):
    put_version("broken", scratch / "1")
    refused(server, added(configuration(folder), "bad_again", scratch))
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "bad_again"
    (version,) = server.model.GetModelStatus(request, timeout=10).model_version_status
    assert version.status.error_code != 0
    assert version.status.error_message


def test_a_warm_up(server, folder, reload, scratch, put_version):
    put_version("warm", scratch / "1")
    reload(added(configuration(folder), "warm", scratch))
    assert server.outputs("divide", model="warm", x=[2.0]) == {"y": [0.5]}
    name = ":tensorflow:serving:model_warmup_latency_count"
    assert server.counter(name, status="OK") >= 1


def test_a_model_listed_twice(server, folder):
    config = added(configuration(folder), "numbers", folder / "every")
    assert refused(server, config) == (
        "INVALID_ARGUMENT",
        "Illegal to list model numbers multiple times in config list",
    )


def test_another_platform(server, folder):
    config = configuration(folder)
    entry(config, "numbers").model_platform = "other"
    assert refused(server, config)[0] == "INVALID_ARGUMENT"


def test_a_relative_path(server, folder):
    code, text = refused(server, added(configuration(folder), "visitor", "somewhere"))
    assert code == "INVALID_ARGUMENT"
    assert "absolute path" in text


def test_a_configuration_without_a_list(server, folder):
    assert refused(server, model_server_config_pb2.ModelServerConfig())[0] == "INVALID_ARGUMENT"
    assert server.outputs(x=[0.0]) == {"y": [1.0]}


def test_metrics_are_told(server, folder, reload):
    name = ":tensorflow:serving:request_count"
    response = reload(configuration(folder), name)
    assert [(each.name, each.int64_value_increase) for each in response.metric] == [(name, 0)]


def test_a_label_moves(server, folder, reload):
    config = configuration(folder)
    entry(config, "chosen").version_labels["stable"] = 3
    reload(config)
    assert server.outputs(model="chosen", label="stable", x=[0.0]) == {"y": [3.0]}


def test_a_known_label_cannot_move_to_a_version_that_is_not_there(server, folder):
    config = configuration(folder)
    entry(config, "chosen").version_labels["stable"] = 9
    assert refused(server, config) == (
        "FAILED_PRECONDITION",
        "Request to assign label to version 9 of model chosen, which is not currently available "
        "for inference",
    )
    assert server.outputs(model="chosen", label="stable", x=[0.0]) == {"y": [1.0]}


def test_a_new_label_can_name_a_version_that_is_not_there(server, folder, reload):
    """With --allow_version_labels_for_unavailable_models."""
    config = configuration(folder)
    entry(config, "chosen").version_labels["next"] = 9
    reload(config)
    found = refusal(server.prediction.Predict, request_for(model="chosen", label="next", x=[0.0]))
    assert found == ("NOT_FOUND", "Servable not found for request: Specific(chosen, 9)")


def test_a_policy_changes(server, folder, reload):
    config = configuration(folder)
    entry(config, "latest_two").model_version_policy.latest.num_versions = 1
    reload(config)
    until(lambda: server.states("latest_two").get(2) == "END")
    assert server.outputs(model="latest_two", x=[0.0]) == {"y": [3.0]}
    reload(configuration(folder))
    until(lambda: server.states("latest_two").get(2) == "AVAILABLE")
