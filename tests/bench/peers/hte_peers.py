"""Regressions of statsmodels and pyfixest, EconML's PolicyTree and LinearDRLearner; one JSON request a line, one answer a line."""

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from answering import answer_requests

Request = Mapping[str, Any]


def version(request: Request) -> str:
    """Of the peer's distribution."""
    return importlib.metadata.version(request["peer"])


def regression(request: Request) -> dict[str, Any]:
    """Seconds of one fit with HC1 or clustered errors; coefficients and errors of the columns behind the intercept."""
    rows = np.load(request["file"])
    return REGRESSIONS[request["peer"]](rows["x"], rows["y"], rows["cluster"] if request["clustered"] else None)


def statsmodels_fit(x: np.ndarray, y: np.ndarray, cluster: np.ndarray | None) -> dict[str, Any]:
    import statsmodels.api as sm

    start = time.perf_counter()
    how: dict[str, Any] = {"cov_type": "HC1"} if cluster is None else {"cov_type": "cluster", "cov_kwds": {"groups": cluster}}
    found = sm.OLS(y, sm.add_constant(x)).fit(**how)
    told = {"coefficient": found.params[1:].tolist(), "error": found.bse[1:].tolist()}
    return {"seconds": time.perf_counter() - start, **told}


def pyfixest_fit(x: np.ndarray, y: np.ndarray, cluster: np.ndarray | None) -> dict[str, Any]:
    import pandas as pd
    import pyfixest as pf

    names = [f"x{at}" for at in range(x.shape[1])]
    frame = pd.DataFrame(x, columns=names).assign(y=y)
    if cluster is not None:
        frame["g"] = cluster
    start = time.perf_counter()
    found = pf.feols("y ~ " + " + ".join(names), frame, vcov="HC1" if cluster is None else {"CRV1": "g"})
    told = {"coefficient": found.coef()[names].tolist(), "error": found.se()[names].tolist()}
    return {"seconds": time.perf_counter() - start, **told}


REGRESSIONS: dict[str, Callable[..., dict[str, Any]]] = {"statsmodels": statsmodels_fit, "pyfixest": pyfixest_fit}


def tree(request: Request) -> dict[str, Any]:
    """CPU seconds of EconML's PolicyTree on `x` and `scores`, and the arms of the rows `fresh`."""
    from econml.policy import PolicyTree

    rows = np.load(request["file"])
    start = time.process_time()
    found = PolicyTree(max_depth=request["depth"], min_samples_leaf=request["least"], random_state=0).fit(rows["x"], rows["scores"])
    seconds = time.process_time() - start
    return {"seconds": seconds, "arms": found.predict(rows["fresh"]).astype(int).ravel().tolist()}


def predict(request: Request) -> dict[str, Any]:
    """Rows a second of scikit-learn's tree: row by row, and in one batch."""
    from sklearn.tree import DecisionTreeRegressor

    rows = np.load(request["file"])
    model, x = DecisionTreeRegressor(max_depth=3).fit(rows["x"], rows["scores"][:, 1]), rows["x"][: request["rows"]]
    start = time.perf_counter()
    for row in x[:500]:
        model.predict(row[None])
    single = 500 / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(20):
        model.predict(x)
    return {"single": single, "batch": 20 * len(x) / (time.perf_counter() - start)}


def linear_dr(request: Request) -> dict[str, Any]:
    """EconML's LinearDRLearner with linear outcome models and shares as propensities: average effects and slopes with their errors."""
    import warnings

    from econml.dr import LinearDRLearner
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LinearRegression

    rows = np.load(request["file"])
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LinearDRLearner(
            model_regression=LinearRegression(), model_propensity=DummyClassifier(strategy="prior"), cv=3, random_state=0
        ).fit(rows["y"], rows["arm"], X=rows["x"])
        told: dict[str, Any] = {"average": [], "average_error": [], "slope": [], "slope_error": []}
        for arm in range(1, int(rows["arm"].max()) + 1):
            average, slope = model.ate_inference(rows["x"], T0=0, T1=arm), model.coef__inference(T=arm)
            told["average"].append(float(average.mean_point))
            told["average_error"].append(float(average.stderr_mean))
            told["slope"].append(np.asarray(slope.point_estimate).ravel().tolist())
            told["slope_error"].append(np.asarray(slope.stderr).ravel().tolist())
    return {"seconds": time.process_time() - start, **told}


TASKS: dict[str, Callable[[Request], Any]] = {
    "version": version,
    "regression": regression,
    "tree": tree,
    "predict": predict,
    "linear_dr": linear_dr,
}


if __name__ == "__main__":
    answer_requests(TASKS)
