"""make ui: where the interface is opened."""

from l2l_exp.ui import page

pytest_plugins = ["edge_fixtures"]


def test_without_a_store_or_a_study_it_is_the_interface_itself(tmp_path, store):
    assert page(f"sqlite:///{tmp_path}/nothing.db") == "http://127.0.0.1:5000"
    assert page(store, 5001) == "http://127.0.0.1:5001"


def test_it_is_the_latest_study_whatever_runs_came_after(store):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    owner = client.create_experiment("l2l_exp")
    runs = [
        client.create_run(owner, start_time=time, tags=tags).info.run_id
        for time, tags in (
            (1000, {"sweeps": "fig4_mlp"}), (3000, {"sweeps": "fig5_transfer"}),
            (2000, {"sweeps": "fig6_architecture"}), (4000, {}),
        )
    ]  # fmt: skip
    assert page(store) == f"http://127.0.0.1:5000/#/experiments/{owner}/runs/{runs[1]}"


def test_a_new_experiment_shows_runs_and_not_traces(command, workplace_with_store):
    from mlflow import MlflowClient

    assert command("train", "experiment=smoke", "training.episodes=1", "evaluation=none").code == 0
    client = MlflowClient(f"sqlite:///{workplace_with_store}/mlflow.db")
    kinds = {e.name: e.tags.get("mlflow.experimentKind") for e in client.search_experiments()}
    assert kinds["l2l_exp"] == "custom_model_development"
    (run,) = client.search_runs([client.get_experiment_by_name("l2l_exp").experiment_id])
    assert run.data.tags["mlflow.source.name"] == "l2l-train"
    assert page(f"sqlite:///{workplace_with_store}/mlflow.db").endswith(":5000")
