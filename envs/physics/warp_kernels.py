"""Kernels of `mujoco_warp`'s engine. Imports Warp, and reads annotations as types: no postponed evaluation here."""

import warp as wp


@wp.kernel(enable_backward=False)
def put_back(held: wp.array[bool], before: wp.array2d[float], live: wp.array2d[float]):
    """live[:, i] = before[:, i] where held[i]."""
    world, i = wp.tid()
    if held[i]:
        live[world, i] = before[world, i]


@wp.kernel(enable_backward=False)
def count_contacts(total: wp.array[int], world: wp.array[int], kind: wp.array[int], counts: wp.array[int]):
    """counts[w] += the contacts of world w."""
    contact = wp.tid()
    if contact < total[0] and kind[contact] % 2 == 1:  # the first bit: it constrains, and is not only a sensor's
        wp.atomic_add(counts, world[contact], 1)


@wp.kernel(enable_backward=False)
def place_fixed_geoms(
    root: wp.array[int],
    weld: wp.array[int],
    mocap: wp.array[int],
    body: wp.array[int],
    pos: wp.array2d[wp.vec3],
    quat: wp.array2d[wp.quat],
    body_pos: wp.array2d[wp.vec3],
    body_quat: wp.array2d[wp.quat],
    geom_pos: wp.array2d[wp.vec3],
    geom_mat: wp.array2d[wp.mat33],
):
    """Global poses (W, ngeom) of the geoms that hang on the world, of their local ones."""
    world, geom = wp.tid()
    b = body[geom]
    if weld[b] != 0 or mocap[root[b]] != -1:
        return
    # MuJoCo's quaternions are (w, x, y, z), and stored so in Warp's, which are (x, y, z, w)
    p, q = body_quat[world, b], quat[world % quat.shape[0], geom]
    outer, inner = wp.quat(p[1], p[2], p[3], p[0]), wp.quat(q[1], q[2], q[3], q[0])
    geom_pos[world, geom] = body_pos[world, b] + wp.quat_rotate(outer, pos[world % pos.shape[0], geom])
    geom_mat[world, geom] = wp.quat_to_matrix(outer * inner)
