"""Ray intersections of simple solids, vectorised over the pixels of a window.

Every function takes the ray origin `o` (three Python floats) and directions `d` float32 [3, N] in the axes of the
object (y is its upward axis) and returns `(t, n)`: ray parameter float32 [N], infinite where the ray misses, and
outward normals float32 [3, N], unit where the ray hits and meaningless elsewhere. Components lead: NumPy is several
times faster on three long rows than on many short ones.
"""

import math

import numpy as np

Vector = tuple[float, float, float]
Hits = tuple[np.ndarray, np.ndarray]

_INF = np.float32(np.inf)
_TINY = np.float32(1e-9)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _nonzero(x: np.ndarray, tiny: np.float32 = _TINY) -> np.ndarray:
    return np.where(np.abs(x) < tiny, tiny, x)


def unit(n: np.ndarray) -> np.ndarray:
    """Columns of [3, N] scaled to length one (zero columns stay zero)."""
    return n / np.maximum(np.sqrt(_dot(n, n)), np.float32(1e-12))


def facing(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Bends normals that look away from the viewer to the nearest direction that is still visible (grazing)."""
    away = np.float32(1.001) * np.maximum(_dot(n, d), 0) / _dot(d, d)
    return unit(n - away * d)


def ellipsoid(o: Vector, d: np.ndarray, radii: Vector) -> Hits:
    """Ellipsoid with centre 0."""
    radii = np.asarray(radii, np.float32)[:, None]
    origin, d = np.asarray(o, np.float32)[:, None] / radii, d / radii
    a, b, c = _dot(d, d), _dot(origin, d), _dot(origin, origin) - 1
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    n = (origin + t * d) / radii
    return np.where((root > 0) & (t > 0), t, _INF), unit(n)


def polyhedron(o: Vector, d: np.ndarray, planes: np.ndarray, offsets: np.ndarray) -> Hits:
    """Convex solid {x: planes @ x <= offsets}; `planes` float32 [K, 3] unit outward normals, `offsets` [K]."""
    slope = planes @ d
    t = (offsets - planes @ np.asarray(o, np.float32))[:, None] / _nonzero(slope)
    entering = np.where(slope < 0, t, -_INF)
    leaving = np.where(slope < 0, _INF, t)
    face, near, far = entering.argmax(0), entering.max(0), leaving.min(0)
    return np.where((near < far) & (near > 0), near, _INF), planes.T.take(face, 1)


def box_planes(sx: float, sy: float, sz: float) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces of a box standing on y = 0, centred in x and z."""
    planes = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)
    return planes, np.array([sx / 2, sx / 2, sy, 0, sz / 2, sz / 2], np.float32)


def house_planes(sx: float, wall: float, sz: float, roof: float) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces of a box of height `wall` under a gable roof `roof` high whose ridge runs along z."""
    length = math.hypot(roof, sx / 2)
    nx, ny = roof / length, sx / 2 / length
    planes = np.array([[1, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [nx, ny, 0], [-nx, ny, 0]], np.float32)
    ridge = ny * (wall + roof)
    return planes, np.array([sx / 2, sx / 2, 0, sz / 2, sz / 2, ridge, ridge], np.float32)


def cylinder(o: Vector, d: np.ndarray, radius: float, height: float) -> Hits:
    """Capped cylinder around the y axis, 0 <= y <= height."""
    dx, dy, dz = d[0], _nonzero(d[1]), d[2]
    a = np.maximum(dx * dx + dz * dz, np.float32(1e-12))
    b = o[0] * dx + o[2] * dz
    root = b * b - a * (o[0] ** 2 + o[2] ** 2 - radius**2)
    width = np.sqrt(np.maximum(root, 0))
    side, out = (-b - width) / a, (-b + width) / a
    bottom, top = -o[1] / dy, (height - o[1]) / dy
    cap, cap_out = np.minimum(bottom, top), np.maximum(bottom, top)
    t = np.maximum(side, cap)
    on_side = cap <= side
    n = np.empty_like(d)
    n[0] = on_side * (o[0] + t * dx) / radius
    n[1] = np.where(on_side, 0, -np.sign(dy))
    n[2] = on_side * (o[2] + t * dz) / radius
    # Of a thin pole far away, few digits of the distance to its axis remain: normalise.
    return np.where((root > 0) & (t < np.minimum(out, cap_out)) & (t > 0), t, _INF), unit(n)


def cone(o: Vector, d: np.ndarray, radius: float, height: float) -> Hits:
    """Capped cone around the y axis: base of the given radius at y = 0, tip at y = height."""
    k2 = (radius / height) ** 2
    dx, dy, dz = d[0], _nonzero(d[1]), d[2]
    below = height - o[1]
    a = _nonzero(dx * dx + dz * dz - k2 * dy * dy)
    b = o[0] * dx + o[2] * dz + k2 * below * dy
    root = b * b - a * (o[0] ** 2 + o[2] ** 2 - k2 * below**2)
    width = np.sqrt(np.maximum(root, 0))
    side = np.full_like(a, _INF)
    for t in ((-b - width) / a, (-b + width) / a):
        y = o[1] + t * dy
        np.copyto(side, t, where=(root > 0) & (t > 0) & (y >= 0) & (y <= height) & (t < side))
    base = -o[1] / dy
    inside = (o[0] + base * dx) ** 2 + (o[2] + base * dz) ** 2 <= radius**2
    base = np.where(inside & (base > 0), base, _INF)
    t = np.minimum(side, base)
    at = np.where(t < _INF, t, 0)
    n = np.empty_like(d)
    n[0], n[1], n[2] = o[0] + at * dx, k2 * (below - at * dy), o[2] + at * dz
    n = unit(n)
    np.copyto(n, np.array([[0], [-1], [0]], np.float32), where=base < side)
    return t, n


def ring(o: Vector, d: np.ndarray, radius: float, tube: float) -> Hits:
    """Half torus as a relief on the plane z = 0 that bulges towards -z: centre line `radius`, half-width `tube`."""
    t, a, b = _on_plate(o, d)
    rho = np.maximum(np.sqrt(a * a + b * b), np.float32(1e-6))
    across = (rho - radius) / tube
    rise = np.sqrt(np.maximum(1 - across * across, 0))
    n = np.stack([across * a / rho, across * b / rho, -rise])
    return _relief(t, np.abs(across) < 1, tube * rise, n, d)


def star(o: Vector, d: np.ndarray, outer: float, inner: float, rise: float) -> Hits:
    """Five-pointed faceted star as a relief on the plane z = 0, its middle raised by `rise` towards -z."""
    t, a, b = _on_plate(o, d)
    wedge = np.float32(2 * math.pi / 5)
    turn = np.round(np.arctan2(a, -b) / wedge) * wedge
    cos, sin = np.cos(turn), np.sin(turn)
    # Fold into the wedge of one tip: `along` points to the tip, `aside` is the distance from its axis.
    along, aside = sin * a - cos * b, cos * a + sin * b
    mirror = np.where(aside < 0, np.float32(-1), np.float32(1))
    notch = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    e_along, e_aside = notch[1], outer - notch[0]  # normal of the edge from tip to notch
    full = e_along * outer
    reach = (e_along * along + e_aside * (aside * mirror)) / full
    slope = rise / full
    n_along, n_aside = slope * e_along, slope * e_aside * mirror
    n = np.stack([sin * n_along + cos * n_aside, sin * n_aside - cos * n_along, np.full_like(a, -1)])
    return _relief(t, reach < 1, rise * (1 - np.clip(reach, 0, 1)), unit(n), d)


def _on_plate(o: Vector, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = -o[2] / _nonzero(d[2], np.float32(1e-6))
    return t, o[0] + t * d[0], o[1] + t * d[1]


def _relief(t: np.ndarray, inside: np.ndarray, rise: np.ndarray, n: np.ndarray, d: np.ndarray) -> Hits:
    # The surface is `rise` above the plate: along the ray this is a step of rise / cos(angle), to first order.
    t = t - rise / np.maximum(np.abs(d[2]), np.float32(0.3))
    return np.where(inside & (t > 0), t, _INF), facing(n, d)
