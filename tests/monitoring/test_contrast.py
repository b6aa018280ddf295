"""What a design leaves, without the basis of it."""

import numpy as np
import pytest

from monitoring.contrast import Complement


@pytest.mark.parametrize("repeated", [False, True])
def test_coordinates_are_along_an_orthonormal_basis_of_what_is_left(repeated: bool) -> None:
    rng = np.random.default_rng(1)
    design = rng.normal(size=(30, 3))
    if repeated:
        design[:, 2] = design[:, 0] - 2 * design[:, 1]
    left = 30 - (2 if repeated else 3)
    complement = Complement(design)
    basis = complement.back(np.eye(left))
    assert basis.shape == (30, left)
    np.testing.assert_allclose(basis.T @ basis, np.eye(left), atol=1e-12)
    np.testing.assert_allclose(basis.T @ design, 0.0, atol=1e-12)
    values = rng.normal(size=(30, 4))
    np.testing.assert_allclose(complement.into(values), basis.T @ values, atol=1e-12)
