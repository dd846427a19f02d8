"""PufferLib's own policies, unedited, registered under their class names."""

from math import prod

from gymnasium import Space, spaces

from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.registry import register

with quiet():
    from pufferlib.models import Convolutional, Default, LSTMWrapper, ProcgenResnet

CONVOLUTIONS = (
    (8, 4),
    (4, 2),
    (3, 1),
)  # kernel and stride of Convolutional's layers, which have 64 channels last


def _convolutional(args: dict, observation: Space, action: Space) -> dict:
    """framestack and flat_size follow from the image; all widths from hidden_size, as forward needs."""
    _want_image("Convolutional", observation, action)
    args = {"hidden_size": 512, "channels_last": False, "downsample": 1, **args}
    shape = observation.shape or ()
    channels, *size = (shape[2], *shape[:2]) if args["channels_last"] else shape
    for side, length in enumerate(size):
        length = -(-length // args["downsample"])
        for kernel, stride in CONVOLUTIONS:
            length = (length - kernel) // stride + 1
        if length < 1:
            raise UserError(
                f"Convolutional needs images of at least 36 x 36 pixels after downsampling, not {shape}: "
                "choose the policy Default"
            )
        size[side] = length
    found = {
        "framestack": channels,
        "flat_size": 64 * prod(size),
        "input_size": args["hidden_size"],
        "output_size": args["hidden_size"],
    }
    for key in ("framestack", "flat_size", "output_size"):
        if args.get(key, found[key]) != found[key]:
            raise UserError(
                f"Convolutional's {key} must be {found[key]} for observations {shape} and hidden_size "
                f"{args['hidden_size']}, not {args[key]}: leave it out and it is found"
            )
    return {**found, **args}


def _default(args: dict, observation: Space, action: Space) -> dict:
    if isinstance(action, spaces.Box) and len(action.shape) != 1:
        raise UserError(f"Default needs Box actions with one axis, not shape {action.shape}: flatten them")
    return {"hidden_size": 128, **args}


def _procgen(args: dict, observation: Space, action: Space) -> dict:
    _want_image("ProcgenResnet", observation, action)
    return {"cnn_width": 16, "mlp_width": 256, **args}


def _lstm(args: dict, policy: str, policy_args: dict) -> dict:
    """Both of its widths are the policy's, between whose encoder and heads it stands."""
    width = policy_args.get("mlp_width" if policy == "ProcgenResnet" else "hidden_size")
    args = {"num_layers": 1, **args}
    for key in ("input_size", "hidden_size"):
        if width is None and key not in args:
            raise UserError(
                f"LSTMWrapper needs {key}: the policy {policy} has no hidden_size to take it from"
            )
        if args.setdefault(key, width) != width and width is not None:
            raise UserError(
                f"LSTMWrapper's {key} must be the policy's width, {width}, not {args[key]}: "
                f"set the policy's hidden_size, and leave {key} out"
            )
    return args


def _want_image(name: str, observation: Space, action: Space) -> None:
    if not isinstance(action, spaces.Discrete) or len(observation.shape or ()) != 3:
        raise UserError(
            f"{name} needs image observations and discrete actions, not {observation} and {action}: "
            "choose the policy Default"
        )


register("Convolutional", complete=_convolutional)(Convolutional)
register("Default", complete=_default)(Default)
register("ProcgenResnet", complete=_procgen)(ProcgenResnet)
register("LSTMWrapper", recurrent=True, complete=_lstm)(LSTMWrapper)
