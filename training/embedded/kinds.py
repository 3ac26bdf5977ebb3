"""The kinds of things in the world with known truth: code point, name, plural, other names, group.

Chosen by hand from Unicode's list: things that can be drawn, told apart and counted, each once
(the whole animal rather than its face, no flags, signs, clock faces, skin tones or gestures).
A line reads `code name/plural=other name,other name`; the plural only where the rule is wrong,
other names only where they really mean this thing and none other in the table.
"""

TABLE = """
animal: 1F412 monkey; 1F98D gorilla; 1F9A7 orangutan; 1F415 dog=puppy,hound; 1F429 poodle
 1F43A wolf/wolves; 1F98A fox; 1F99D raccoon=racoon; 1F408 cat=kitten,kitty; 1F981 lion
 1F405 tiger; 1F406 leopard=jaguar,cheetah; 1FACE moose/moose=elk; 1FACF donkey=mule
 1F40E horse=pony,stallion; 1F984 unicorn; 1F993 zebra; 1F98C deer/deer=stag; 1F9AC bison/bison
 1F402 ox/oxen=bull; 1F404 cow; 1F416 pig=hog,swine; 1F417 boar=wild boar; 1F411 sheep/sheep=ewe
 1F40F ram; 1F410 goat; 1F42B camel; 1F999 llama=alpaca; 1F992 giraffe; 1F418 elephant
 1F9A3 mammoth; 1F98F rhinoceros/rhinoceroses=rhino; 1F99B hippopotamus/hippopotamuses=hippo
 1F401 mouse/mice; 1F439 hamster; 1F407 rabbit=bunny,hare; 1F43F chipmunk=squirrel; 1F9AB beaver
 1F994 hedgehog; 1F987 bat; 1F43B bear; 1F43B-200D-2744 polar bear; 1F428 koala=koala bear
 1F43C panda=panda bear; 1F9A5 sloth; 1F9A6 otter; 1F9A8 skunk; 1F998 kangaroo=wallaby
 1F9A1 badger; 1F438 frog=toad; 1F40A crocodile=alligator; 1F422 turtle=tortoise
 1F98E lizard=gecko; 1F40D snake=serpent; 1F409 dragon; 1F995 sauropod=brontosaurus,diplodocus
 1F996 T-Rex=tyrannosaurus,t rex,tyrannosaurus rex
bird: 1F983 turkey; 1F414 chicken=hen; 1F413 rooster=cockerel; 1F424 chick=baby chick
 1F427 penguin; 1F54A dove=pigeon; 1F985 eagle=hawk; 1F986 duck; 1F9A2 swan; 1F989 owl; 1F9A4 dodo
 1F9A9 flamingo; 1F99A peacock; 1F99C parrot; 1FABF goose/geese
sea animal: 1F433 whale; 1F42C dolphin=porpoise; 1F9AD seal=sea lion; 1F420 fish/fish=tropical fish
 1F421 pufferfish/pufferfish=blowfish,puffer fish; 1F988 shark; 1F419 octopus; 1F41A seashell=shell
 1FAB8 coral; 1FABC jellyfish/jellyfish; 1F980 crab; 1F99E lobster; 1F990 shrimp/shrimp=prawn
 1F991 squid/squid; 1F9AA oyster=clam
insect: 1F40C snail; 1F98B butterfly; 1F41B caterpillar; 1F41C ant; 1F41D bee=honeybee,honey bee
 1FAB2 beetle; 1F41E ladybug=lady beetle,ladybird; 1F997 cricket=grasshopper; 1FAB3 cockroach=roach
 1F577 spider; 1F578 spider web=cobweb,web,spiderweb; 1F982 scorpion; 1F99F mosquito; 1FAB0 fly
 1FAB1 worm=earthworm
flower: 1F490 bouquet=bunch of flowers; 1F338 cherry blossom; 1FAB7 lotus=water lily; 1F339 rose
 1F33A hibiscus/hibiscuses; 1F33B sunflower; 1F33C daisy=blossom; 1F337 tulip; 1FABB hyacinth
plant: 1F331 seedling=sprout; 1FAB4 potted plant=houseplant,pot plant
 1F332 pine tree=fir tree,pine,fir,evergreen tree; 1F333 tree=deciduous tree; 1F334 palm tree=palm
 1F335 cactus/cacti; 1F340 clover=four leaf clover; 1F341 maple leaf/maple leaves
 1FABA nest=bird's nest,bird nest; 1F344 mushroom=toadstool; 1F384 Christmas tree=xmas tree
 1F38D bamboo
fruit: 1F347 bunch of grapes/bunches of grapes=grapes,grape; 1F348 melon; 1F349 watermelon
 1F34A orange=tangerine,mandarin; 1F34B lemon; 1F34C banana; 1F34D pineapple; 1F96D mango
 1F34E apple=red apple; 1F350 pear; 1F351 peach; 1F352 cherry=cherries; 1F353 strawberry
 1FAD0 blueberry=blueberries; 1F95D kiwi=kiwi fruit,kiwifruit; 1F965 coconut
vegetable: 1F345 tomato; 1FAD2 olive; 1F951 avocado; 1F346 eggplant=aubergine; 1F954 potato
 1F955 carrot; 1F33D corn cob=corn,ear of corn,maize,corn on the cob
 1F336 chili pepper=hot pepper,chilli,chili,chilli pepper; 1FAD1 bell pepper=capsicum,green pepper
 1F952 cucumber=gherkin; 1F96C lettuce/lettuces=bok choy,leafy green; 1F966 broccoli/broccoli
 1F9C4 garlic bulb=garlic; 1F9C5 onion; 1F95C peanut=peanuts; 1F330 chestnut=acorn
 1FADA ginger root=ginger; 1FADB pea pod=peas,pea
food: 1F35E bread loaf/bread loaves=bread,loaf,loaf of bread; 1F950 croissant; 1F956 baguette
 1F968 pretzel; 1F96F bagel; 1F95E pancake=pancakes; 1F9C7 waffle; 1F9C0 cheese wedge=cheese
 1F357 chicken leg=drumstick,poultry leg; 1F969 steak; 1F953 bacon strip=bacon
 1F354 hamburger=burger,cheeseburger; 1F35F box of fries/boxes of fries=french fries,fries
 1F355 pizza slice=pizza,slice of pizza; 1F32D hot dog=hotdog; 1F96A sandwich; 1F32E taco
 1F32F burrito; 1F95A egg; 1F373 fried egg; 1F957 salad=green salad; 1F37F popcorn box=popcorn
 1F9C8 butter stick=butter; 1F9C2 salt shaker=salt; 1F96B tin can=food can,can of food,canned food
 1F371 bento box=bento; 1F359 rice ball=onigiri; 1F35A rice bowl=rice,bowl of rice
 1F363 sushi/sushi; 1F364 fried shrimp/fried shrimp=tempura; 1F95F dumpling; 1F960 fortune cookie
 1F961 takeout box=takeaway box
sweet: 1F366 ice cream cone=soft ice cream,soft serve; 1F368 ice cream=bowl of ice cream
 1F369 doughnut=donut; 1F36A cookie=biscuit; 1F382 birthday cake
 1F370 slice of cake/slices of cake=shortcake,cake slice,piece of cake; 1F9C1 cupcake=muffin
 1F967 pie; 1F36B chocolate bar=chocolate; 1F36C candy=wrapped candy; 1F36D lollipop
 1F36E custard=pudding,flan; 1F36F honey pot=honey,honey jar,pot of honey
drink: 1F37C baby bottle; 1F95B glass of milk/glasses of milk=milk
 2615 coffee cup=coffee,cup of coffee; 1FAD6 teapot; 1F375 teacup=cup of tea,tea
 1F37E champagne bottle=champagne; 1F377 wine glass=wine,glass of wine
 1F378 cocktail glass=cocktail,martini; 1F37A beer mug=beer,mug of beer
 1F943 whisky glass=whisky,whiskey; 1F964 paper cup=soft drink,cup with straw; 1F9CB bubble tea
 1F9C3 juice box=juice carton,beverage box; 1F9CA ice cube=ice
kitchenware: 1F944 spoon; 1F52A kitchen knife/kitchen knives=knife; 1FAD9 jar; 1F3FA vase=amphora
 1F374 fork and knife/forks and knives
place: 1F30D globe=earth; 1F5FA map=world map; 26F0 mountain; 1F30B volcano
 1F3DD desert island=island; 26F2 fountain; 26FA tent; 1F3A0 carousel horse
 1F6DD slide=playground slide; 1F3A1 ferris wheel=big wheel; 1F3A2 roller coaster=rollercoaster
 1F3AA circus tent=circus; 1F5FD Statue of Liberty/Statues of Liberty; 1FAA8 rock=boulder
 1F9F1 brick; 1FAB5 log=wood,wooden log
building: 1F3DF stadium; 1F3DB temple=classical building; 1F6D6 hut; 1F3E0 house
 1F3E2 office building=office; 1F3E5 hospital; 1F3EB school; 1F3ED factory; 1F3F0 castle
 26EA church; 1F54C mosque; 1F5FC tower; 1F3EF Japanese castle
vehicle: 1F682 steam train=locomotive,steam locomotive; 1F685 bullet train
 1F68B tram=tram car,streetcar; 1F68C bus; 1F690 van=minibus; 1F691 ambulance
 1F692 fire truck=fire engine; 1F693 police car; 1F695 taxi=cab,taxicab; 1F697 car=automobile
 1F6FB pickup truck=pickup; 1F69A delivery truck=truck,lorry; 1F69C tractor
 1F3CE racing car=race car; 1F3CD motorcycle=motorbike; 1F6F5 scooter=motor scooter,moped
 1F6FA rickshaw=auto rickshaw,tuk tuk; 1F6B2 bicycle=bike; 1F6F4 kick scooter; 1F6F9 skateboard
 1F6FC roller skate; 1F9BD wheelchair
boat: 26F5 sailboat=sailing boat,yacht; 1F6F6 canoe=kayak,rowing boat; 1F6A4 speedboat=speed boat
 1F6A2 ship=cruise ship
aircraft: 2708 airplane=plane,aeroplane,jet; 1FA82 parachute; 1F681 helicopter
 1F6A0 cable car=gondola; 1F6F0 satellite; 1F680 rocket=spaceship,rocket ship
 1F6F8 flying saucer=ufo
street thing: 26FD fuel pump=gas pump,petrol pump; 1F6DE wheel=tire,tyre
 1F6A8 police light=siren,police car light; 1F6A6 traffic light=stoplight,traffic signal
 1F6D1 stop sign; 2693 anchor; 1F6DF life buoy=lifebuoy,ring buoy,life ring; 1F4EE postbox=post box
 1F4EB mailbox=letterbox
timepiece: 231B hourglass; 231A wristwatch=watch; 23F0 alarm clock; 23F1 stopwatch
sky thing: 1F315 full moon; 1F319 crescent moon=crescent; 2600 sun
 1FA90 planet=saturn,ringed planet; 2B50 star; 2601 cloud; 1F32A tornado=whirlwind; 1F308 rainbow
 2744 snowflake; 2604 comet; 26A1 lightning bolt=lightning,thunderbolt; 1F525 fire=flame
 1F4A7 water drop=droplet,drop of water,raindrop; 1F30A wave
toy: 26C4 snowman; 1F388 balloon; 1F9F8 teddy bear=teddy; 1FA85 piñata=pinata
 1F9E9 puzzle piece=jigsaw piece; 1FA80 yo-yo/yo-yos=yoyo; 1FA81 kite
 1F3AE game controller=video game,gamepad; 1F579 joystick; 1F3B0 slot machine
 1F3B2 die/dice=game die,dice; 1F52B water pistol=water gun
 1F3B1 pool ball=8 ball,billiard ball,eight ball; 1F52E crystal ball; 1FA84 magic wand=wand
 1FA86 nesting doll=matryoshka,russian doll; 265F chess pawn=pawn,chess piece
 1F383 jack-o-lantern/jack-o-lanterns=pumpkin,halloween pumpkin,jack o lantern
 1F9E8 firecracker=dynamite; 1F380 bow=ribbon; 1F381 gift=wrapped gift,wrapped present,gift box
 1F390 wind chime; 1F3AB ticket; 1FAA9 disco ball=mirror ball; 1F9E7 red envelope
sports thing: 1F3C6 trophy; 1F3C5 medal=gold medal,sports medal; 26BD soccer ball; 26BE baseball
 1F3C0 basketball; 1F3D0 volleyball; 1F3C8 American football; 1F94F frisbee=flying disc
 1F3B3 bowling ball=bowling; 1F94A boxing glove
 1F94B karate uniform=martial arts uniform,judo uniform; 26F8 ice skate
 1F3A3 fishing rod=fishing pole; 1F93F diving mask=snorkel; 1F6F7 sled=sledge,sleigh
 1F94C curling stone; 1F3AF dartboard=bullseye,target
 1F3D3 ping-pong paddle=ping pong paddle,table tennis paddle,ping pong
 1F3F8 badminton racket=badminton; 1F945 goal=goal net
craft thing: 1F3A8 palette=paint palette,artist palette
 1F5BC framed picture=picture frame,painting; 1F9F5 thread spool=thread,spool,spool of thread
 1FAA1 sewing needle=needle; 1F9F6 yarn ball=yarn,ball of yarn; 1FAA2 knot
 1F3AD theater mask=theatre mask,performing arts
clothing: 1F453 pair of glasses/pairs of glasses=glasses,eyeglasses,spectacles
 1F576 pair of sunglasses/pairs of sunglasses=sunglasses
 1F97D pair of goggles/pairs of goggles=goggles; 1F97C lab coat; 1F9BA safety vest=vest
 1F454 necktie=tie; 1F455 T-shirt=tshirt,t shirt,shirt
 1F456 pair of jeans/pairs of jeans=jeans,trousers,pants; 1F9E3 scarf/scarves
 1F9E4 pair of gloves/pairs of gloves=gloves; 1F9E5 coat=jacket
 1F9E6 pair of socks/pairs of socks=socks,sock; 1F457 dress; 1F458 kimono
 1FA73 pair of shorts/pairs of shorts=shorts; 1F459 bikini; 1FA71 swimsuit=bathing suit
 1FAAD hand fan=folding fan,folding hand fan; 1F45B purse; 1F45C handbag; 1F392 backpack=rucksack
 1F6CD shopping bag=shopping bags; 1FA74 flip-flop=flip flop,thong sandal,sandal
 1F45E leather shoe=man's shoe; 1F45F sneaker=running shoe,trainer; 1F97E hiking boot
 1F460 high heel=high-heeled shoe,high heeled shoe,heel; 1F462 boot=woman's boot; 1F451 crown
 1F452 sun hat=woman's hat,straw hat; 1F3A9 top hat; 1F393 graduation cap=mortarboard
 1F9E2 baseball cap=cap,billed cap; 1FA96 army helmet=military helmet; 1F484 lipstick
 1F48D ring=diamond ring; 1F48E gem=gem stone,diamond,gemstone; 1F302 closed umbrella
 1F4FF bead necklace=prayer beads,necklace; 1FAAE hair pick; 1F3BD running shirt
 26F1 beach umbrella=parasol
instrument: 1F3B7 saxophone=sax; 1FA97 accordion; 1F3B8 guitar=electric guitar
 1F3B9 piano keyboard=musical keyboard,piano; 1F3BA trumpet; 1F3BB violin=fiddle; 1FA95 banjo
 1F941 drum; 1FA98 long drum=conga; 1FA87 maraca=maracas; 1FA88 flute=recorder; 1F514 bell
 1F4EF horn=postal horn,post horn; 1F3B5 musical note=music note
electronic thing: 1F3A4 microphone=mic
 1F3A7 pair of headphones/pairs of headphones=headphones,headphone; 1F4FB radio; 1F4E3 megaphone
 1F4F1 mobile phone=smartphone,phone,cell phone,cellphone; 260E telephone
 1F4DE telephone receiver=receiver; 1F4DF pager; 1F50B battery; 1F50C electric plug=plug
 1F4BB laptop; 1F5A5 desktop computer=computer,monitor; 1F5A8 printer; 2328 keyboard
 1F5B1 computer mouse/computer mice; 1F4BE floppy disk; 1F4BF compact disc=cd,disc,optical disk
 1F3A5 movie camera=film camera; 1F3AC clapperboard=clapper board; 1F4FA television=tv,tv set
 1F4F7 camera; 1F4FC videocassette=vhs,cassette,videotape; 1F39E film strip=film frames
 1F4E1 satellite dish=satellite antenna
light: 1F56F candle; 1F4A1 light bulb=bulb,lightbulb; 1F526 flashlight=torch
 1F3EE red lantern=lantern,paper lantern; 1FA94 oil lamp=diya lamp,diya
paper thing: 1F4D5 closed book=red book,book; 1F4D6 open book
 1F4DA stack of books/stacks of books=books,pile of books; 1F4DC scroll; 1F4F0 newspaper
 1F516 bookmark; 1F3F7 label=tag; 2709 envelope; 1F4E6 package=parcel,cardboard box
 1F4C5 calendar; 1F4CA bar chart=chart; 1F4CB clipboard; 1F9FE receipt
 1F5D2 notepad=spiral notepad; 1F4C1 folder=file folder
money thing: 1F4B0 money bag=bag of money; 1FA99 coin; 1F4B5 dollar bill=dollar banknote,banknote
 1F4B3 credit card=bank card
office thing: 270F pencil; 1F58B fountain pen; 1F58A pen=ballpoint pen
 1F58C paintbrush=brush,paint brush; 1F58D crayon; 1F4BC briefcase
 1F4CC pushpin=thumbtack,drawing pin; 1F4CE paperclip=paper clip; 1F4CF ruler=straight ruler
 1F4D0 set square=triangular ruler,set-square; 2702 pair of scissors/pairs of scissors=scissors
 1F5C4 file cabinet=filing cabinet; 1F5D1 wastebasket=trash can,rubbish bin,waste bin
 1F512 lock=padlock; 1F511 key; 1F5DD old key; 1F9EE abacus/abacuses
tool: 1F528 hammer; 1FA93 axe=ax,hatchet; 26CF pickaxe=pick; 1F5E1 dagger; 1F4A3 bomb
 1FA83 boomerang; 1F3F9 bow and arrow/bows and arrows; 1F6E1 shield
 1FA9A hand saw=saw,handsaw,carpentry saw; 1F527 wrench=spanner; 1FA9B screwdriver
 1F529 nut and bolt/nuts and bolts=bolt,screw; 2699 gear=cog,cogwheel; 1F5DC clamp=vise
 2696 balance scale=scales,pair of scales; 1FA9D hook; 1F9F0 toolbox=tool box; 1F9F2 magnet
 1FA9C ladder; 1F6E2 oil drum=barrel; 1F4A5 explosion
science thing: 2697 alembic; 1F9EA test tube; 1F9EB petri dish; 1F9EC DNA strand=dna
 1F52C microscope; 1F52D telescope; 1F9ED compass; 1F321 thermometer
 1F50D magnifying glass=magnifier
medical thing: 1F489 syringe=injection; 1FA78 blood drop=drop of blood,blood; 1F48A pill=capsule
 1FA79 bandage=band-aid,plaster,adhesive bandage; 1FA7C crutch; 1FA7A stethoscope
 1FA7B x-ray=x ray,xray
household thing: 1F6AA door; 1FA9E mirror; 1FA9F window; 1F6CF bed; 1F6CB couch=sofa,couch and lamp
 1FA91 chair; 1F6BD toilet; 1FAA0 plunger; 1F6C1 bathtub=bath,tub; 1FAA4 mouse trap=mousetrap
 1FA92 razor; 1F9F4 lotion bottle=lotion; 1F9F7 safety pin; 1F9F9 broom; 1F9FA basket
 1F9FB toilet roll=toilet paper,roll of paper; 1FAA3 bucket=pail; 1F9FC soap bar=soap,bar of soap
 1FAA5 toothbrush; 1F9FD sponge; 1F9EF fire extinguisher; 1F6D2 shopping cart=shopping trolley
 1F6CE bellhop bell=service bell; 1F9F3 suitcase=luggage; 1F4BA seat; 1F6BF shower; 1F6AC cigarette
 26B0 coffin; 1FAA6 headstone=tombstone,gravestone; 1F5FF moai=easter island statue
body part: 1F442 ear; 1F443 nose; 1F441 eye; 1F9E0 brain; 1F9B7 tooth/teeth; 1F9B4 bone
 1F444 mouth=lips; 1F445 tongue; 1F9B6 foot/feet; 1FAC0 anatomical heart
 1FAC1 pair of lungs/pairs of lungs=lungs; 2764 heart=red heart; 1FAB6 feather
 1F43E paw print=paw prints
creature: 1F47B ghost; 1F47D alien; 1F916 robot; 1F480 skull; 1F47E space invader=alien monster
"""

# Kinds that a fair judge might call by each other's name: where one of a line is in a picture, no
# question asks for another one of it, and no wrong caption or option is made with it.
NEAR_TABLE = """
dog, poodle, wolf, fox
sheep, ram, goat
deer, moose
cow, ox, bison
horse, donkey, zebra, unicorn, carousel horse
pig, boar
elephant, mammoth
mouse, hamster, computer mouse, mouse trap
bear, polar bear, panda, koala, teddy bear
monkey, gorilla, orangutan
lion, tiger, leopard, cat
crocodile, lizard
dragon, T-Rex, sauropod, snake
chicken, rooster, chick, turkey, chicken leg
dove, goose, duck, swan
whale, dolphin, shark, seal
fish, pufferfish
octopus, squid, jellyfish
shrimp, fried shrimp, lobster
snail, seashell
fly, mosquito, bee
beetle, cockroach, ladybug, cricket, ant
caterpillar, worm
spider, spider web
cherry blossom, hibiscus, daisy, lotus, sunflower
tree, pine tree, palm tree, Christmas tree
clover, seedling, potted plant
melon, watermelon
orange, peach, mango
lettuce, broccoli, salad
chili pepper, bell pepper
bread loaf, baguette, croissant
bagel, doughnut
egg, fried egg
birthday cake, slice of cake, cupcake, pie
ice cream, ice cream cone
rice ball, rice bowl, sushi
coffee cup, teacup, paper cup, bubble tea, juice box
wine glass, cocktail glass, whisky glass, beer mug, glass of milk
champagne bottle, baby bottle, lotion bottle
fork and knife, kitchen knife, spoon, dagger
globe, map
mountain, volcano, rock
desert island, palm tree
house, hut, school, office building, hospital, factory, temple
castle, Japanese castle, tower, church, mosque
tent, circus tent
steam train, bullet train, tram, bus
bus, van, ambulance, fire truck
car, taxi, police car, racing car
pickup truck, delivery truck, fire truck
motorcycle, scooter, kick scooter, bicycle
roller skate, ice skate, skateboard
sailboat, canoe, speedboat, ship
postbox, mailbox
wristwatch, alarm clock, stopwatch
full moon, crescent moon
water drop, blood drop
fire, explosion
bow, bow and arrow
medal, coin, trophy
dartboard, goal
soccer ball, volleyball, basketball
pair of glasses, pair of sunglasses, pair of goggles, diving mask
lab coat, coat, kimono, karate uniform
safety vest, running shirt, T-shirt
bikini, swimsuit
pair of jeans, pair of shorts
purse, handbag, shopping bag, backpack, money bag
leather shoe, sneaker, hiking boot, high heel, boot, flip-flop
sun hat, top hat, graduation cap, baseball cap, army helmet
closed umbrella, beach umbrella
ring, gem, crown
guitar, banjo, violin
drum, long drum
trumpet, horn, saxophone, flute
bell, bellhop bell
piano keyboard, keyboard
mobile phone, telephone, telephone receiver, pager
desktop computer, laptop, television
camera, movie camera
candle, oil lamp, firecracker
light bulb, flashlight, red lantern
closed book, open book, stack of books
envelope, red envelope
folder, clipboard, notepad, receipt, newspaper, scroll
label, bookmark, ticket
dollar bill, credit card
pencil, pen, fountain pen, crayon, paintbrush
ruler, set square
key, old key
hammer, axe, pickaxe
wrench, nut and bolt, screwdriver
satellite, satellite dish
test tube, petri dish, alembic
bed, couch, chair, seat
bucket, basket, wastebasket
toilet, toilet roll
toolbox, briefcase, suitcase
heart, anatomical heart
apple, tomato, cherry
alien, space invader
thread spool, yarn ball
"""
